"""What a client raises."""


class ServingError(OSError):
    """A server cannot be reached, refuses, or gives something else than asked for; the message says where."""


class TransientServingError(ServingError):
    """A failure that may pass by itself: asked again, the server may answer."""


class BadInputError(ServingError, ValueError):
    """An argument, image or file that is not sent at all; the message names it."""
