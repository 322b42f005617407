"""Every reader of foreign bytes, by name."""

from tests.faults.fuzzing import Reader
from tests.faults.readers import answers, images, proposals, runs, texts, weights

READERS: dict[str, Reader] = {
    **weights.READERS,
    **texts.READERS,
    **images.READERS,
    **proposals.READERS,
    **runs.READERS,
    **answers.READERS,
}
