"""Batches that fit into messages."""

from collections.abc import Iterator, Sequence

from rfd_tf.serving.errors import BadInputError

_MARGIN = 4096  # names, shapes and framing


def pieces(sizes: Sequence[int], max_message_bytes: int, max_batch: int) -> Iterator[range]:
    """Positions of the images that go together, in order.

    Args:
        sizes: bytes of each image in a message.
        max_message_bytes: largest message.
        max_batch: most images in one.

    Raises:
        BadInputError: if one image alone is too large.
    """
    start, total, limit = 0, 0, max_message_bytes - _MARGIN
    for position, size in enumerate(sizes):
        if size > limit:
            raise BadInputError(
                f"image {position} of the batch takes about {size} bytes to send or to answer: raise "
                f"`max_message_bytes` ({max_message_bytes}) or ask for fewer outputs"
            )
        if position > start and (total + size > limit or position - start == max_batch):
            yield range(start, position)
            start, total = position, 0
        total += size
    yield range(start, len(sizes))
