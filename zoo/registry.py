"""Entries by name."""

from zoo.entries import ENTRIES
from zoo.entry import Entry
from zoo.errors import ZooError

_entries: dict[str, Entry] = {entry.name: entry for entry in ENTRIES}


def entry_names() -> list[str]:
    """The names of all entries, sorted."""
    return sorted(_entries)


def info(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ZooError: if there is none; the message lists those that exist.
    """
    try:
        return _entries[name]
    except KeyError:
        raise ZooError(f"The zoo has no entry {name!r}; it has: {', '.join(entry_names())}") from None


def register(entry: Entry, *, replace: bool = False) -> Entry:
    """Add an entry of your own and return it.

    Args:
        entry: the new entry.
        replace: whether it may take the place of an entry of the same name.

    Raises:
        ZooError: if the name is taken and `replace` is not set.
    """
    if not isinstance(entry, Entry):
        raise ZooError(f"`entry` must be a zoo.Entry. Received: {entry!r}")
    if entry.name in _entries and not replace:
        raise ZooError(f"The zoo has an entry {entry.name!r} already; pass replace=True to replace it")
    _entries[entry.name] = entry
    return entry
