"""Released files: downloaded once, checked, kept in the cache."""

import errno
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from rfd_tf.files import atomic_path
from zoo.errors import DownloadError, TransientDownloadError
from zoo.http import Network, cache_dir, is_offline, sha256_of, stream_to
from zoo.mega import MegaLink, is_mega
from zoo.registry import Entry, info


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
        if final.exists() and _is_intact(entry, final):
            return final
        final.parent.mkdir(parents=True, exist_ok=True)
        with _lock(final):
            if not (final.exists() and _is_intact(entry, final)):
                _download(entry, final, network or Network())
    except OSError as error:
        raise DownloadError(f"{name}: {_explained(error)} (in {final.parent})") from error
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
        fetch(entry, link, part, network)
        try:
            _check(entry, link, part, final)
            return part
        except DownloadError:
            part.unlink()
            if not resumed:
                raise


def _check(entry: Entry, link: str, path: Path, final: Path) -> None:
    if entry.size is not None and path.stat().st_size != entry.size:
        raise DownloadError(f"it has {path.stat().st_size} bytes where {entry.size} were promised")
    if is_mega(link):
        from zoo.mega import check_mac

        check_mac(MegaLink.parse(link), path)
    expected = _expected_hash(entry, final)
    if expected and (found := sha256_of(path)) != expected:
        advice = "" if entry.sha256 else f"; if its owner has replaced it, delete {_record(final)}"
        raise DownloadError(f"its SHA-256 is {found}, expected {expected}{advice}")


def _expected_hash(entry: Entry, final: Path) -> str | None:
    if entry.sha256:
        return entry.sha256
    words = _record(final).read_text().split() if _record(final).exists() else []
    return words[0] if words else None


def _record(final: Path) -> Path:
    """Where the hash of the first verified download is kept."""
    return final.with_name(final.name + ".sha256")


def _is_intact(entry: Entry, final: Path) -> bool:
    """Whether the cached file is the one it was. Nobody vouches for one without a known hash."""
    expected = _expected_hash(entry, final)
    return expected is not None and sha256_of(final) == expected


def _explained(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "the disk is full or a quota is used up: make room and run it again, it will go on from there"
    return f"the cache cannot be used ({error.strerror or error})"


_MOST_ATTEMPTS = 100


_LONGEST_PAUSE = 60.0


def fetch(entry: Entry, link: str, part: Path, network: Network) -> None:
    """Complete `part` from `link`, going on where it stops; its content is not checked here.

    Raises:
        DownloadError: if it cannot be completed; `part` may keep a beginning for another time.
    """
    if link.startswith("file://"):
        _copy(entry, link, part)
        return
    if is_offline():
        raise DownloadError("RFD_TF_OFFLINE forbids the network")
    fetch_once = _fetch_mega if is_mega(link) else _fetch_http
    fruitless = 0
    for _ in range(_MOST_ATTEMPTS):
        before = _size(part)
        try:
            fetch_once(entry, link, part, network)
            return
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
    from zoo.mega import BLOCK, decryptor, file_name, locate

    parsed = MegaLink.parse(link)
    found = locate(parsed, network)
    file_name(parsed, found.attributes)  # refuses a wrong key before anything is downloaded
    if entry.size not in (None, found.size):
        raise DownloadError(f"MEGA offers {found.size} bytes where {entry.size} were promised")
    stream_to(
        part,
        found.url,
        network,
        size=found.size,
        decryptor=lambda offset: decryptor(parsed, offset),
        align=BLOCK,
    )
