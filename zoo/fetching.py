"""From one link to one local file, with retries."""

import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from zoo.cache import is_offline
from zoo.entry import Entry
from zoo.errors import DownloadError, TransientDownloadError
from zoo.mega_link import MegaLink, is_mega
from zoo.network import Network

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
    from zoo.http_stream import stream_to

    validator = part.with_name(part.name + ".validator")
    if entry.sha256 is None and not validator.exists():
        part.unlink(missing_ok=True)  # nothing would tell a mixture of two versions from the file
    stream_to(part, link, network, size=entry.size, validator_file=validator)
    validator.unlink(missing_ok=True)


def _fetch_mega(entry: Entry, link: str, part: Path, network: Network) -> None:
    from zoo.http_stream import stream_to
    from zoo.mega_api import locate
    from zoo.mega_cipher import BLOCK, decryptor, file_name

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
