"""Content from URLs: a bounded, resumable stream over HTTP into a file whose SHA-256 is checked."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from zoo.errors import DownloadError, TransientDownloadError


def sha256_of(path: str | Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """`$RFD_TF_CACHE/zoo`, else the platform's cache folder of the user. Not created here."""
    if root := os.environ.get("RFD_TF_CACHE"):
        return Path(root).expanduser() / "zoo"
    import platformdirs

    return Path(platformdirs.user_cache_dir("rfd_tf", appauthor=False)) / "zoo"


def is_offline() -> bool:
    """Whether `$RFD_TF_OFFLINE` forbids the network: anything but empty, `0`, `false` and `no` does."""
    return os.environ.get("RFD_TF_OFFLINE", "").lower() not in ("", "0", "false", "no")


MEGA_API = "https://g.api.mega.co.nz/cs"


@dataclass(frozen=True)
class Network:
    """Settings of a download; the defaults are for people.

    Args:
        mega_api: address of MEGA's API; by default `$RFD_TF_MEGA_API`, else the public one.
        attempts: in a row without a byte received, before a mirror is given up.
        back_off: seconds before the second attempt; doubled each time, 60 at most.
        timeout: seconds without an answer.
        progress: whether to show a progress bar; None: on terminals only.
    """

    mega_api: str = field(default_factory=lambda: os.environ.get("RFD_TF_MEGA_API") or MEGA_API)
    attempts: int = 5
    back_off: float = 1.0
    timeout: float = 30.0
    progress: bool | None = None


MAX_BYTES = 16 << 30
_PIECE = 1 << 16
_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes [0-9]{1,18}-[0-9]{1,18}/([0-9]{1,18})")
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


def stream_to(
    part: Path,
    url: str,
    network: Network,
    *,
    size: int | None = None,
    validator_file: Path | None = None,
    decryptor: Callable[[int], Callable[[bytes], bytes]] | None = None,
    align: int = 1,
) -> None:
    """Download into `part`, from the last multiple of `align` bytes that it already has.

    Args:
        part: the unfinished file.
        url: of the content.
        network: settings.
        size: of the content, where known.
        validator_file: keeps the content's ETag or date, so that a resume never mixes two versions of it.
        decryptor: offset -> function that decrypts the stream's pieces from there.
        align: bytes that must be decrypted together.

    Raises:
        TransientDownloadError: if trying again may help; `part` keeps what came.
        DownloadError: if not.
    """
    present = part.stat().st_size if part.exists() else 0
    if present and present == size:
        return
    offset = 0 if size is not None and present > size else present // align * align
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator_file is not None and validator_file.exists():
            headers["If-Range"] = validator_file.read_text()
    try:
        with requests.get(url, headers=headers, stream=True, timeout=network.timeout) as response:
            offset = _checked_offset(response, url, offset, part)
            _note_validator(response, validator_file)
            total = _total(response, offset, size)
            _check_space(part, total, offset)
            _write(part, response, offset, total, decryptor(offset) if decryptor else None, network)
    except DownloadError:
        raise
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransientDownloadError(f"the connection broke ({type(error).__name__})") from error
    except ValueError as error:  # what `requests` lets through of a malformed address or redirection
        raise DownloadError(f"the server's answer is not understood ({error})") from error


def _checked_offset(response: requests.Response, url: str, offset: int, part: Path) -> int:
    """Where the answer's content starts."""
    code = response.status_code
    if url.startswith("https://") and not response.url.startswith("https://"):
        raise DownloadError(f"the server leads from https to an open connection: {response.url[:80]}")
    if code == 509:
        raise DownloadError(
            "the transfer quota for your address is used up: try again in some hours (HTTP 509)"
        )
    if code == 416:
        part.unlink(missing_ok=True)
        raise TransientDownloadError("the server cannot resume; starting over (HTTP 416)")
    if code in _TRANSIENT:
        raise TransientDownloadError(f"the server answers HTTP {code}")
    if code == 200:
        return 0
    if code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return offset
    raise DownloadError(f"the server answers HTTP {code}")


def _note_validator(response: requests.Response, file: Path | None) -> None:
    if file is None:
        return
    validator = response.headers.get("ETag", "")
    if not validator or validator.startswith("W/"):
        validator = response.headers.get("Last-Modified", "")
    file.unlink(missing_ok=True)
    if validator:
        file.write_text(validator)


def _total(response: requests.Response, offset: int, size: int | None) -> int | None:
    """The content's whole size, if anyone says it, and as everyone says it."""
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    length = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
    announced = int(match[1]) if match else offset + int(length[0]) if length else None
    if None not in (size, announced) and size != announced:
        raise DownloadError(f"the server offers {announced} bytes where {size} were promised")
    total = announced if size is None else size
    if total is None and response.headers.get("Transfer-Encoding") != "chunked":
        raise DownloadError("the server does not say how long the file is, so that its end cannot be told")
    if total is not None and total > MAX_BYTES:
        raise DownloadError(f"the file is too large: {total} bytes")
    return total


def _check_space(part: Path, total: int | None, offset: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - offset > free:
        raise DownloadError(
            f"the disk is too full: {total - offset:,} bytes are needed, {free:,} are free in {part.parent}"
        )


def _write(part: Path, response, offset: int, total: int | None, decrypt, network: Network) -> None:
    hidden = None if network.progress is None else not network.progress
    limit = MAX_BYTES if total is None else total
    position = offset
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(offset)
        file.seek(offset)
        bar = tqdm(
            total=total, initial=offset, unit="B", unit_scale=True, disable=hidden, desc=part.parent.name
        )
        with bar:
            for piece in response.raw.stream(_PIECE, decode_content=False):
                position += len(piece)
                if position > limit:
                    raise DownloadError(f"the server sends more than {limit} bytes")
                file.write(decrypt(piece) if decrypt else piece)
                bar.update(len(piece))
    if total is not None and position < total:
        raise TransientDownloadError(f"the connection ended after {position} of {total} bytes")
