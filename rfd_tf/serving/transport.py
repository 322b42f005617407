"""Addresses, options, retries and errors of a client, and what its two protocols have in common."""

import abc
import dataclasses
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

import numpy as np

MAX_BATCH = 64  # the exported batching parameters refuse more


class ServingError(OSError):
    """A server cannot be reached, refuses, or answers with something else; the message says where."""


class TransientServingError(ServingError):
    """A failure that may pass by itself: a further try may succeed."""


class BadInputError(ServingError, ValueError):
    """An argument, image or file that is refused before anything is sent; the message names it."""


@dataclasses.dataclass(frozen=True)
class Address:
    """One model of one server.

    Attributes:
        text: as given by the user.
        scheme: `grpc`, `http`, or these with an `s` for TLS.
        target: HOST:PORT; an IPv6 host in brackets.
        name: of the model.
        version: a version of it; None for the label's, else the newest that is loaded.
        label: a label that the server's configuration gives to a version, such as `stable`.
    """

    text: str
    scheme: str
    target: str
    name: str
    version: int | None = None
    label: str | None = None

    @property
    def is_grpc(self) -> bool:
        return self.scheme.startswith("grpc")

    @property
    def is_encrypted(self) -> bool:
        return self.scheme.endswith("s")

    @property
    def rest_path(self) -> str:
        """Path of the model's version in the REST interface."""
        path = f"/v1/models/{quote(self.name, safe='')}"
        if self.version is not None:
            return f"{path}/versions/{self.version}"
        return path if self.label is None else f"{path}/labels/{quote(self.label, safe='')}"


@dataclasses.dataclass(frozen=True)
class ClientOptions:
    """How a client asks. Times are in seconds.

    Attributes:
        timeout: of one try of one request.
        deadline: of a whole call with its pieces, tries and pauses; None for no bound.
        retries: further tries after the first.
        backoff: first pause between tries; see `Retries`.
        seed: of the random part of the pauses; None for a different one each time.
        token: sent as `authorization: Bearer TOKEN`; refused for unencrypted addresses.
        allow_plaintext_token: sends it all the same.
        certificate: PEM file of the authority that signed the server's certificate; by default those that
            the system trusts.
        client_certificate, client_key: PEM files, where the server asks for them (mutual TLS).
        max_message_bytes: largest request and answer.
        max_image_bytes: largest encoded image.
        max_batch: most images in a request.
        version, label: the model's version by number or label, as in the address.

    Raises:
        BadInputError: on a value out of range.
    """

    timeout: float = 30.0
    deadline: float | None = None
    retries: int = 4
    backoff: float = 0.2
    seed: int | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    allow_plaintext_token: bool = False
    certificate: str | os.PathLike | None = None
    client_certificate: str | os.PathLike | None = None
    client_key: str | os.PathLike | None = None
    max_message_bytes: int = 64 << 20
    max_image_bytes: int = 20 << 20
    max_batch: int = MAX_BATCH
    version: int | None = None
    label: str | None = None

    def __post_init__(self):
        for name in ("timeout", "deadline", "max_message_bytes", "max_image_bytes", "max_batch"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInputError(f"`{name}` must be positive. Received: {name}={value}")

    def check_credentials(self, address: Address) -> None:
        """Raises BadInputError if they do not fit `address` or each other, or a file is missing."""
        for name in ("certificate", "client_certificate", "client_key"):
            path = getattr(self, name)
            if path is None:
                continue
            if not address.is_encrypted:
                raise BadInputError(f"`{name}` needs an encrypted address. Received: {address.text}")
            if not Path(path).is_file():
                raise BadInputError(f"`{name}`: no file at {path}")
        if (self.client_certificate is None) != (self.client_key is None):
            raise BadInputError("`client_certificate` and `client_key` belong together: one is missing")
        if self.token is None:
            return
        if not self.token or not self.token.isascii() or not self.token.isprintable() or " " in self.token:
            raise BadInputError("`token` must be of printable ASCII characters without spaces")
        if not address.is_encrypted and not self.allow_plaintext_token:
            raise BadInputError(
                f"`token` is not sent unencrypted to {address.text}: use {address.scheme}s://, or say "
                "allow_plaintext_token=True where nobody listens"
            )


SCHEMES = ("grpc", "grpcs", "http", "https")
FORM = "SCHEME://HOST:PORT/NAME, optionally followed by /versions/NUMBER or /labels/LABEL"


def parse_address(text: str, version: int | None = None, label: str | None = None) -> Address:
    """Parses an address.

    Args:
        text: `SCHEME://HOST:PORT/NAME`, `.../NAME/versions/3` or `.../NAME/labels/stable`.
        version, label: these, where the text does not give any.

    Raises:
        BadInputError: if it is not an address, or gives both a version and a label.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadInputError(f"{text!r} is not a server's address ({error}); its form is {FORM}") from error
    if parts.username is not None:
        raise BadInputError("An address holds no user or password: give a token by `token`")
    names = parts.path.strip("/").split("/")
    if parts.scheme not in SCHEMES or not host or port is None or parts.query or parts.fragment:
        raise BadInputError(f"{text!r} is not a server's address; its form is {FORM}")
    if len(names) == 3 and names[1] == "versions" and names[2].isdecimal():
        version = _only(version, int(names[2]), "version", text)
    elif len(names) == 3 and names[1] == "labels":
        label = _only(label, names[2], "label", text)
    elif len(names) != 1:
        raise BadInputError(f"{text!r} names no model; the form of an address is {FORM}")
    if not names[0]:
        raise BadInputError(f"{text!r} lacks the model's name; the form of an address is {FORM}")
    if version is not None and label is not None:
        raise BadInputError(f"{text!r}: version {version} and label {label!r} exclude each other")
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Address(text, parts.scheme, target, names[0], version, label)


def _only(given, found, what: str, text: str):
    if given is not None and given != found:
        raise BadInputError(f"{text!r} gives the {what} {found!r}, the argument {given!r}")
    return found


Answer = TypeVar("Answer")


class Retries:
    """Repeats a request that failed for a reason that may pass, after growing pauses.

    By hand, since urllib3's are for HTTP only and none bounds all the requests of a call by one deadline.

    The pause before try n + 1 is drawn from [0.5, 1] * min(backoff * 2**(n - 1), max_backoff), so that
    clients that failed together do not come back together.

    Args:
        retries: further tries after the first, at least 0.
        backoff: the first pause in seconds, at least 0.
        max_backoff: no pause is longer; seconds.
        seed: of the pauses; None for a different one each time.
        sleep, clock: for tests.
    """

    def __init__(
        self,
        retries: int = 4,
        backoff: float = 0.2,
        max_backoff: float = 10.0,
        *,
        seed: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        for name, value in (("retries", retries), ("backoff", backoff), ("max_backoff", max_backoff)):
            if not value >= 0:
                raise BadInputError(f"`{name}` must not be negative. Received: {name}={value}")
        self.retries, self.backoff, self.max_backoff = int(retries), backoff, max_backoff
        self.clock = clock
        self._sleep = sleep
        self._random = random.Random(seed)

    def run(self, action: Callable[[float], Answer], timeout: float, end: float | None, whose: str) -> Answer:
        """`action(seconds)`, repeated while it raises TransientServingError.

        Args:
            action: does one try within so many seconds.
            timeout: of one try, seconds.
            end: when the whole must be done, on `clock`; None for no such moment.
            whose: the server's address, for the message.

        Raises:
            ServingError: what the last try raised, with the number of tries; or that the time is over.
        """
        for tries in range(1, self.retries + 2):
            try:
                return action(self._seconds(timeout, end, whose))
            except TransientServingError as error:
                pause = min(self.backoff * 2 ** (tries - 1), self.max_backoff) * self._random.uniform(0.5, 1)
                times = f"{tries} tries" if tries > 1 else "1 try"
                if tries > self.retries:
                    raise ServingError(f"{error} (after {times})") from error
                if end is not None and self.clock() + pause >= end:
                    raise ServingError(f"{error} (after {times}; no time is left for more)") from error
            self._sleep(pause)
        raise AssertionError("unreachable")

    def _seconds(self, timeout: float, end: float | None, whose: str) -> float:
        if end is None:
            return timeout
        left = end - self.clock()
        if left <= 0:
            raise ServingError(f"{whose}: the total time (`deadline`) is over")
        return min(timeout, left)


AVAILABLE = "AVAILABLE"
_LONGEST = 10_000
_ASSERTION = re.compile(r"assertion failed: \[(.*?)\](?=\s*(\[\[|$))", re.DOTALL)


def one_line(details: str) -> str:
    """A server's error message in one line; of a refusal by the model, only the reason."""
    details = details[:_LONGEST]  # a hostile one could keep the search busy for hours
    refused = _ASSERTION.search(details)
    return " ".join((refused[1] if refused else details).split())


class Transport(abc.ABC):
    """One request, one try: temporary failures raise TransientServingError, others ServingError."""

    @abc.abstractmethod
    def predict(
        self,
        signature: str,
        input_name: str,
        values: np.ndarray | Sequence[bytes],
        outputs: Sequence[str],
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """Outputs of a signature of one input.

        Args:
            signature, input_name: their names.
            values: an array, or strings of bytes, [B, ...].
            outputs: names of the outputs wanted; others may come too.
            timeout: seconds.

        Returns:
            name -> float32 [B, ...], or objects of bytes.
        """

    @abc.abstractmethod
    def status(self, timeout: float) -> dict[int, str]:
        """State of each version of the model (`LOADING`, `AVAILABLE`, ...), or of the address's version."""

    @abc.abstractmethod
    def array_bytes(self, count: int, dtype: str) -> int:
        """Bytes at most that `count` numbers take in a request."""

    @abc.abstractmethod
    def file_bytes(self, size: int) -> int:
        """Bytes that a file of `size` bytes takes in a request."""

    @abc.abstractmethod
    def answer_bytes(self, wanted: int, all_there: int) -> int:
        """Bytes of an answer if `wanted` of all the `all_there` numbers are asked for."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection."""
