"""What goes wrong in the zoo; every message says what came and what to do."""


class ZooError(ValueError):
    """Base of the zoo's errors: something the caller asked for cannot be had."""


class DownloadError(ZooError):
    """A file could not be fetched or is not the file that was promised."""


class TransientDownloadError(DownloadError):
    """A fetch that may succeed when it is tried again later."""


class FormatError(ZooError):
    """A weight file is damaged, hostile, or of another format."""


class WeightError(ZooError):
    """The weights of a file and the variables of a network do not fit each other."""


class VerificationError(ZooError):
    """A converted network does not compute what its source computes."""
