"""MEGA's encryption: AES-CTR content with a chained CBC-MAC, AES-CBC attributes."""

from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from rfd_tf.json_text import parse_json
from zoo.errors import DownloadError
from zoo.mega_link import MegaLink, decode_base64

BLOCK = 16
_KIB = 1 << 10
_ZERO = bytes(BLOCK)


def decryptor(link: MegaLink, offset: int) -> Callable[[bytes], bytes]:
    """Decrypts the content's stream from byte `offset`, a multiple of 16."""
    counter = link.nonce + (offset // BLOCK).to_bytes(8, "big")
    return Cipher(algorithms.AES(link.key), modes.CTR(counter)).decryptor().update


def file_name(link: MegaLink, attributes: str) -> str:
    """The file's name in its encrypted attributes.

    Raises:
        DownloadError: if they do not decrypt: the link's key is not the file's.
    """
    data = decode_base64(attributes)
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
        chunk = min(chunk + 128 * _KIB, 1024 * _KIB)
        yield min(chunk, size)
        size -= chunk


def meta_mac(link: MegaLink, path: Path) -> bytes:
    """The meta-MAC of a decrypted file, 8 bytes."""
    chain = Cipher(algorithms.AES(link.key), modes.CBC(_ZERO)).encryptor()
    total = _ZERO
    with path.open("rb") as file:
        for size in chunk_sizes(path.stat().st_size):
            total = chain.update(_chunk_mac(link, file.read(size)))
    return bytes(a ^ b for a, b in zip(total[:4] + total[8:12], total[4:8] + total[12:], strict=True))


def _chunk_mac(link: MegaLink, chunk: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(link.key), modes.CBC(link.nonce * 2)).encryptor()
    return cipher.update(chunk + bytes(-len(chunk) % BLOCK))[-BLOCK:]


def check_mac(link: MegaLink, path: Path) -> None:
    """Raise DownloadError if the decrypted file is not the one that the link's key promises."""
    if meta_mac(link, path) != link.mac:
        raise DownloadError("its content does not have the MAC in the link's key: damaged or tampered with")
