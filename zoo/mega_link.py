"""Public MEGA links, and the keys inside them."""

import base64
import re
from dataclasses import dataclass

from zoo.errors import DownloadError

_HOST = r"https?://(?:www\.)?mega(?:\.co)?\.nz/"
_OLD = re.compile(_HOST + r"#!([\w-]+)!([\w-]+)/?")
_NEW = re.compile(_HOST + r"file/([\w-]+)#([\w-]+)/?")
_KEY_BYTES = 32


def is_mega(link: str) -> bool:
    """Whether the link leads to MEGA."""
    return re.match(_HOST, link) is not None


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
        packed = decode_base64(text)
        if len(packed) != _KEY_BYTES:
            raise DownloadError(f"The key of a MEGA link has 32 bytes. Received {len(packed)}: {link!r}")
        key = bytes(a ^ b for a, b in zip(packed[:16], packed[16:], strict=True))
        return cls(handle, key, nonce=packed[16:24], mac=packed[24:])


def decode_base64(text: str) -> bytes:
    """URL-safe base64 without padding; a malformed text gives DownloadError."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise DownloadError(f"Not URL-safe base64 ({error}): {text[:60]!r}") from error
