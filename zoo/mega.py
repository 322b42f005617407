"""MEGA's links, its encryption, and the API call that gives a file's address.

By hand, so that a broken download is resumed, and no content is used that lacks the MAC in its link.
"""

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import requests
import urllib3
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from rfd_tf.files import parse_json
from zoo.errors import DownloadError, TransientDownloadError

BLOCK = 16
_ZERO = bytes(BLOCK)
_KEY_BYTES = 32
_HOST = r"https?://(?:www\.)?mega(?:\.co)?\.nz/"
_OLD = re.compile(_HOST + r"#!([\w-]+)!([\w-]+)/?")
_NEW = re.compile(_HOST + r"file/([\w-]+)#([\w-]+)/?")
_MAX_ANSWER = 1 << 20
_TRANSIENT = {
    -3: "MEGA asks to try again later",
    -4: "MEGA limits the rate of requests",
    -18: "the file is temporarily unavailable on MEGA",
}
_FINAL = {
    -2: "MEGA does not understand the link",
    -9: "MEGA does not have the file (any more)",
    -11: "MEGA denies access to the file",
    -16: "MEGA has blocked the file or its owner",
    -17: "the MEGA quota of the file's owner or of your address is used up: try again in some hours",
}


@dataclass(frozen=True)
class MegaLink:
    """A file on MEGA and how to decrypt it.

    Args:
        handle: the file's public name.
        key: AES-128 key.
        nonce: upper 64 bits of the counter block.
        mac: expected meta-MAC of the content.
    """

    handle: str
    key: bytes
    nonce: bytes
    mac: bytes

    @classmethod
    def parse(cls, link: str) -> "MegaLink":
        """Of `https://mega.nz/#!HANDLE!KEY` or `https://mega.nz/file/HANDLE#KEY`.

        Raises:
            DownloadError: if it is neither, or its key is not of 32 bytes.
        """
        match = _OLD.fullmatch(link) or _NEW.fullmatch(link)
        if match is None:
            raise DownloadError(f"Not a public MEGA file link with its key: {link!r}")
        handle, text = match.groups()
        packed = _decode_base64(text)
        if len(packed) != _KEY_BYTES:
            raise DownloadError(f"The key of a MEGA link has 32 bytes. Received {len(packed)}: {link!r}")
        return cls(handle, _xor(packed[:16], packed[16:]), nonce=packed[16:24], mac=packed[24:])


def is_mega(link: str) -> bool:
    """Whether the link leads to MEGA."""
    return re.match(_HOST, link) is not None


def _decode_base64(text: str) -> bytes:
    """Of URL-safe base64 without padding."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise DownloadError(f"Not URL-safe base64 ({error}): {text[:60]!r}") from error


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def decryptor(link: MegaLink, offset: int) -> Callable[[bytes], bytes]:
    """Decrypts the content's stream from byte `offset`, a multiple of 16."""
    counter = link.nonce + (offset // BLOCK).to_bytes(8, "big")
    return Cipher(algorithms.AES(link.key), modes.CTR(counter)).decryptor().update


def file_name(link: MegaLink, attributes: str) -> str:
    """The file's name in its encrypted attributes.

    Raises:
        DownloadError: if they do not decrypt: the link's key is not the file's.
    """
    data = _decode_base64(attributes)
    cipher = Cipher(algorithms.AES(link.key), modes.CBC(_ZERO)).decryptor()
    plain = cipher.update(data[: len(data) // BLOCK * BLOCK])
    try:
        if not plain.startswith(b"MEGA{"):
            raise ValueError("no MEGA header")
        return str(parse_json(plain[4:].rstrip(b"\0"))["n"])
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"The key in the MEGA link does not fit its file {link.handle!r}: check the link"
        ) from error


def chunk_sizes(size: int) -> Iterator[int]:
    """The lengths of a file's MAC chunks: 128 KiB, growing by 128 KiB up to 1 MiB."""
    chunk = 0
    while size > 0:
        chunk = min(chunk + (128 << 10), 1 << 20)
        yield min(chunk, size)
        size -= chunk


def check_mac(link: MegaLink, path: Path) -> None:
    """Raise DownloadError if the decrypted file has not the meta-MAC that the link's key promises."""
    chain = Cipher(algorithms.AES(link.key), modes.CBC(_ZERO)).encryptor()
    total = _ZERO
    with path.open("rb") as file:
        for size in chunk_sizes(path.stat().st_size):
            chunk = file.read(size)
            cipher = Cipher(algorithms.AES(link.key), modes.CBC(link.nonce * 2)).encryptor()
            total = chain.update(cipher.update(chunk + bytes(-len(chunk) % BLOCK))[-BLOCK:])
    if _xor(total[:4] + total[8:12], total[4:8] + total[12:]) != link.mac:
        raise DownloadError("its content does not have the MAC in the link's key: damaged or tampered with")


class MegaFile(NamedTuple):
    """Where a file's encrypted content is for now, its size, and its encrypted attributes."""

    url: str
    size: int
    attributes: str


def locate(link: MegaLink, api: str, timeout: float) -> MegaFile:
    """Ask MEGA for the temporary address of a public file.

    Args:
        link: of the file.
        api: address of MEGA's API.
        timeout: seconds without an answer.

    Raises:
        TransientDownloadError: if asking again may help.
        DownloadError: if not; the message says in plain words why.
    """
    question: Any = [{"a": "g", "g": 1, "p": link.handle}]
    try:
        with requests.post(api, params={"id": 1}, json=question, timeout=timeout, stream=True) as response:
            status = response.status_code
            answer = response.raw.read(_MAX_ANSWER, decode_content=True)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransientDownloadError(f"MEGA does not answer ({type(error).__name__})") from error
    if status in (429, 500, 502, 503, 504):
        raise TransientDownloadError(f"MEGA answers HTTP {status}")
    if status == 509:
        raise DownloadError("MEGA's transfer quota for your address is used up: try again in some hours")
    if status != 200:
        raise DownloadError(f"MEGA answers HTTP {status}")
    try:
        return _file(parse_json(answer))
    except DownloadError:
        raise
    except ValueError as error:
        shown = answer[:80].decode(errors="replace")
        raise DownloadError(f"MEGA's answer is not understood: {shown!r}") from error


def _file(answer: Any) -> MegaFile:
    """Of [file], file, or an error: a number, bare, in a list, or as {"e": number}.

    By hand, as msgspec knows no union of two untagged objects.
    """
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, dict) and "e" in answer:
        answer = answer["e"]
    if isinstance(answer, int):
        if answer in _TRANSIENT:
            raise TransientDownloadError(f"{_TRANSIENT[answer]} (error {answer})")
        raise DownloadError(f"{_FINAL.get(answer, 'MEGA refuses')} (error {answer})")
    match answer:
        case {"g": str() as url, "s": int() as size, "at": str() as attributes} if (
            size >= 0 and not isinstance(size, bool)
        ):
            return MegaFile(url, size, attributes)
    raise DownloadError(f"MEGA's answer is not understood: {str(answer)[:80]!r}")
