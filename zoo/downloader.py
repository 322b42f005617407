"""Released files: fetched once over HTTP or from MEGA, resumed where they broke off, checked, and cached."""

import errno
import hashlib
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
import urllib3
from filelock import FileLock, Timeout
from tqdm import tqdm

from rfd_tf.files import atomic_path, user_cache
from zoo.errors import DownloadError, TransientDownloadError
from zoo.mega import BLOCK, MegaLink, check_mac, decryptor, file_name, is_mega, locate
from zoo.registry import Entry, info

MEGA_API = "https://g.api.mega.co.nz/cs"
MAX_BYTES = 16 << 30
_PIECE = 1 << 16
_MOST_ATTEMPTS = 100
_LONGEST_PAUSE = 60.0
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes [0-9]{1,18}-[0-9]{1,18}/([0-9]{1,18})")


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


def sha256_of(path: str | Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """`$RFD_TF_CACHE/zoo`, else the platform's cache folder of the user. Not created here."""
    return user_cache() / "zoo"


def download(name: str, *, network: Network | None = None) -> Path:
    """The local path of an entry's file; it is fetched if it is not in the cache or in the package.

    The cache is `$RFD_TF_CACHE`, else the platform's. Two processes that ask at once download once. A broken
    download goes on where it stopped. The file is checked against the entry's SHA-256, else against that of
    its first verified download; a MEGA file also against the MAC in its link.

    Args:
        name: of the entry.
        network: settings.

    Raises:
        ZooError: if there is no such entry.
        DownloadError: if the file cannot be had; the message says why for every mirror, and what to do.
    """
    entry = info(name)
    if entry.bundled:
        return entry.bundled
    if not entry.links:
        raise DownloadError(
            f"{name} has no link: give a file by --from_file, or its path in place of zoo:{name}"
        )
    final = cache_dir() / name / entry.file_name
    try:
        if not _is_intact(entry, final):
            final.parent.mkdir(parents=True, exist_ok=True)
            with _lock(final):
                if not _is_intact(entry, final):
                    _download(entry, final, network or Network())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            problem = (
                "the disk is full or a quota is used up: make room and run it again, it will go on from there"
            )
        else:
            problem = f"the cache cannot be used ({error.strerror or error})"
        raise DownloadError(f"{name}: {problem} (in {final.parent})") from error
    return final


def _lock(final: Path):
    lock = FileLock(final.with_name(f".{final.name}.lock"))
    try:
        return lock.acquire(timeout=0.5)
    except Timeout:
        print(f"Another process downloads {final.name}; waiting for it", file=sys.stderr)
        return lock.acquire()


def _download(entry: Entry, final: Path, network: Network) -> None:
    failures = []
    for link in entry.links:
        try:
            part = _fetch_checked(entry, link, final, network)
        except DownloadError as error:
            failures.append(f"  {link}: {error}")
            continue
        with atomic_path(_record(final)) as temporary:
            temporary.write_text(f"{sha256_of(part)}  {final.name}\n")
        os.replace(part, final)
        return
    raise DownloadError(
        f"{entry.name} could not be downloaded:\n" + "\n".join(failures) + "\n"
        "If you have the file, give it: --from_file=FILE (from Python: from_file=...)"
    )


def _fetch_checked(entry: Entry, link: str, final: Path, network: Network) -> Path:
    """The complete and checked `.part` file. One that was resumed and is wrong is fetched anew, once."""
    mark = hashlib.sha256(link.encode()).hexdigest()[:8]
    part = final.with_name(f".{final.name}.{mark}.part")
    while True:
        resumed = part.exists()
        _fetch(entry, link, part, network)
        try:
            _check(entry, link, part, final)
            return part
        except DownloadError:
            part.unlink()
            if not resumed:
                raise


def _check(entry: Entry, link: str, part: Path, final: Path) -> None:
    if entry.size is not None and part.stat().st_size != entry.size:
        raise DownloadError(f"it has {part.stat().st_size} bytes where {entry.size} were promised")
    if is_mega(link):
        check_mac(MegaLink.parse(link), part)
    expected = _expected_hash(entry, final)
    if expected and (found := sha256_of(part)) != expected:
        advice = "" if entry.sha256 else f"; if its owner has replaced it, delete {_record(final)}"
        raise DownloadError(f"its SHA-256 is {found}, expected {expected}{advice}")


def _record(final: Path) -> Path:
    """Where the hash of the first verified download is kept."""
    return final.with_name(final.name + ".sha256")


def _expected_hash(entry: Entry, final: Path) -> str | None:
    if entry.sha256:
        return entry.sha256
    words = _record(final).read_text().split() if _record(final).exists() else []
    return words[0] if words else None


def _is_intact(entry: Entry, final: Path) -> bool:
    """Whether the cached file is the one it was. Nobody vouches for one without a known hash."""
    expected = _expected_hash(entry, final) if final.exists() else None
    return expected is not None and sha256_of(final) == expected


def _fetch(entry: Entry, link: str, part: Path, network: Network) -> None:
    """Complete `part` from `link`, going on where it stops; its content is not checked here.

    The retries are by hand: each goes on from the bytes that came, from MEGA at a fresh address, and those
    that bring bytes do not count; urllib3's and tenacity's repeat one request.
    """
    if link.startswith("file://"):
        return _copy(entry, link, part)
    if os.environ.get("RFD_TF_OFFLINE", "").lower() not in ("", "0", "false", "no"):
        raise DownloadError("RFD_TF_OFFLINE forbids the network")
    fetch_once = _fetch_mega if is_mega(link) else _fetch_http
    fruitless = 0
    for _ in range(_MOST_ATTEMPTS):
        before = _size(part)
        try:
            return fetch_once(entry, link, part, network)
        except TransientDownloadError as error:
            fruitless = 1 if _size(part) > before else fruitless + 1
            if fruitless >= network.attempts:
                raise DownloadError(f"{error}; given up after {fruitless} attempts") from error
            time.sleep(min(network.back_off * 2 ** (fruitless - 1), _LONGEST_PAUSE))
    raise DownloadError(f"the connection broke {_MOST_ATTEMPTS} times; run it again to go on")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _copy(entry: Entry, link: str, part: Path) -> None:
    source = Path(url2pathname(urlsplit(link).path))
    if not source.is_file():
        raise DownloadError(f"there is no file {source}")
    if entry.size is not None and source.stat().st_size != entry.size:
        raise DownloadError(f"{source} has {source.stat().st_size} bytes where {entry.size} were promised")
    shutil.copyfile(source, part)


def _fetch_http(entry: Entry, link: str, part: Path, network: Network) -> None:
    validator = part.with_name(part.name + ".validator")
    if entry.sha256 is None and not validator.exists():
        part.unlink(missing_ok=True)  # nothing would tell a mixture of two versions from the file
    stream_to(part, link, network, size=entry.size, validator_file=validator)
    validator.unlink(missing_ok=True)


def _fetch_mega(entry: Entry, link: str, part: Path, network: Network) -> None:
    parsed = MegaLink.parse(link)
    found = locate(parsed, network.mega_api, network.timeout)
    file_name(parsed, found.attributes)  # refuses a wrong key before anything is downloaded
    if entry.size not in (None, found.size):
        raise DownloadError(f"MEGA offers {found.size} bytes where {entry.size} were promised")
    stream_to(part, found.url, network, size=found.size, mega=parsed)


def stream_to(
    part: Path,
    url: str,
    network: Network,
    *,
    size: int | None = None,
    validator_file: Path | None = None,
    mega: MegaLink | None = None,
) -> None:
    """Download into `part`, going on behind what it already has.

    Args:
        part: the unfinished file.
        url: of the content.
        network: settings.
        size: of the content, where known.
        validator_file: keeps the content's ETag or date, so that a resume never mixes two versions of it.
        mega: the link of a MEGA file, whose content is decrypted.

    Raises:
        TransientDownloadError: if trying again may help; `part` keeps what came.
        DownloadError: if not.
    """
    present = _size(part)
    if present and present == size:
        return
    offset = 0 if size is not None and present > size else present
    if mega is not None:
        offset -= offset % BLOCK
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator_file is not None and validator_file.exists():
            headers["If-Range"] = validator_file.read_text()
    try:
        with requests.get(url, headers=headers, stream=True, timeout=network.timeout) as response:
            offset = _checked_offset(response, url, offset, part)
            if validator_file is not None:
                _note_validator(response, validator_file)
            total = _total(response, offset, size)
            free = shutil.disk_usage(part.parent).free
            if total is not None and total - offset > free:
                raise DownloadError(
                    f"the disk is too full: {total - offset:,} bytes are needed, "
                    f"{free:,} are free in {part.parent}"
                )
            _write(part, response, offset, total, decryptor(mega, offset) if mega else None, network)
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


def _note_validator(response: requests.Response, file: Path) -> None:
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
