import abc
from contextlib import AbstractContextManager
from typing import BinaryIO


class Storage(abc.ABC):
    """A folder of files that appear complete or not at all.

    Attributes:
        location: where it is, for messages.
    """

    def __init__(self, location: str):
        self.location = location

    @abc.abstractmethod
    def names(self) -> set[str]:
        """The files there, but for hidden ones; none where there is no such folder."""

    @abc.abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A file to read, from any place in it; FileNotFoundError where there is none."""

    @abc.abstractmethod
    def write(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to write, there under its name when the block ends, and not if the block raises."""

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self.open(name) as file:
            return file.read()

    def write_text(self, name: str, text: str) -> None:
        """A whole file, in UTF-8."""
        with self.write(name) as file:
            file.write(text.encode("utf-8"))
