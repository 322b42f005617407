"""The one question the zoo asks MEGA: where is this file?"""

from dataclasses import dataclass
from typing import Any

import requests
import urllib3

from rfd_tf.json_text import parse_json
from zoo.errors import DownloadError, TransientDownloadError
from zoo.mega_link import MegaLink
from zoo.network import Network

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
QUOTA = "MEGA's transfer quota for your address is used up: try again in some hours"


@dataclass(frozen=True)
class MegaFile:
    """Where a file's encrypted content is for now, its size, and its encrypted attributes."""

    url: str
    size: int
    attributes: str


def locate(link: MegaLink, network: Network) -> MegaFile:
    """Ask MEGA for the temporary address of a public file.

    Raises:
        TransientDownloadError: if asking again may help.
        DownloadError: if not; the message says in plain words why.
    """
    question = [{"a": "g", "g": 1, "p": link.handle}]
    status, answer = _ask(question, network)
    if status in (429, 500, 502, 503, 504):
        raise TransientDownloadError(f"MEGA answers HTTP {status}")
    if status == 509:
        raise DownloadError(QUOTA)
    if status != 200:
        raise DownloadError(f"MEGA answers HTTP {status}")
    try:
        content = parse_json(answer)
    except ValueError as error:
        shown = answer[:80].decode(errors="replace")
        raise DownloadError(f"MEGA's answer is not understood: {shown!r}") from error
    return _file(content)


def _ask(question: list, network: Network) -> tuple[int, bytes]:
    """Status and content of the answer, of which no more is read than the question can need."""
    address, options = network.mega_api, {"params": {"id": 1}, "json": question, "timeout": network.timeout}
    try:
        with requests.post(address, stream=True, **options) as answer:
            return answer.status_code, answer.raw.read(_MAX_ANSWER, decode_content=True)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise TransientDownloadError(f"MEGA does not answer ({type(error).__name__})") from error


def _file(answer: Any) -> MegaFile:
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
