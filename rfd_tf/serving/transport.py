"""What the client needs of a protocol."""

import abc
import re
from collections.abc import Sequence

import numpy as np

AVAILABLE = "AVAILABLE"
_LONGEST = 10_000
_ASSERTION = re.compile(r"assertion failed: \[(.*?)\](?=\s*(\[\[|$))", re.DOTALL)


def one_line(details: str) -> str:
    """What a server says of an error, in one line: of a model's own refusal the reason alone."""
    details = details[:_LONGEST]  # a hostile one could keep the search busy for hours
    refused = _ASSERTION.search(details)
    return " ".join((refused[1] if refused else details).split())


class Transport(abc.ABC):
    """One request, one try: failures that may pass raise TransientServingError, others ServingError."""

    @abc.abstractmethod
    def predict(
        self,
        signature: str,
        input_name: str,
        values: np.ndarray | Sequence[bytes],
        outputs: Sequence[str],
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """Outputs of a signature of one input.

        Args:
            signature, input_name: their names.
            values: an array, or strings of bytes, [B, ...].
            outputs: names of the outputs wanted; others may come too.
            timeout: seconds.

        Returns:
            name -> float32 [B, ...], or objects of bytes.
        """

    @abc.abstractmethod
    def status(self, timeout: float) -> dict[int, str]:
        """State of each version of the model (`LOADING`, `AVAILABLE`, ...), or of the address's version."""

    @abc.abstractmethod
    def array_bytes(self, count: int, dtype: str) -> int:
        """Bytes at most that `count` numbers take in a request."""

    @abc.abstractmethod
    def file_bytes(self, size: int) -> int:
        """Bytes that a file of `size` bytes takes in a request."""

    @abc.abstractmethod
    def answer_bytes(self, wanted: int, all_there: int) -> int:
        """Bytes that an answer takes, if so many of the numbers that there are were wanted."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the connection."""
