"""How downloads use the network."""

import os
from dataclasses import dataclass, field

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
