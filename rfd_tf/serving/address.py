"""Where a model is served."""

import dataclasses
from urllib.parse import quote, urlsplit

from rfd_tf.serving.errors import BadInputError

SCHEMES = ("grpc", "grpcs", "http", "https")
FORM = "SCHEME://HOST:PORT/NAME, with /versions/NUMBER or /labels/LABEL behind it where wanted"


@dataclasses.dataclass(frozen=True)
class Address:
    """One model of one server.

    Attributes:
        text: as the user gave it.
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


def parse_address(text: str, version: int | None = None, label: str | None = None) -> Address:
    """An address in parts.

    Args:
        text: `SCHEME://HOST:PORT/NAME`, `.../NAME/versions/3` or `.../NAME/labels/stable`.
        version, label: these, where the text does not give any.

    Raises:
        BadInputError: if it is no address, or gives both a version and a label.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadInputError(f"{text!r} is no server's address ({error}); its form is {FORM}") from error
    if parts.username is not None:
        raise BadInputError("An address holds no user or password: give a token by `token`")
    names = parts.path.strip("/").split("/")
    if parts.scheme not in SCHEMES or not host or port is None or parts.query or parts.fragment:
        raise BadInputError(f"{text!r} is no server's address; its form is {FORM}")
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
