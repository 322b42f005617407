"""The protocols by name.

Each is a module with a function

    run(experiment: Experiment) -> dict[str, Figures]

which measures one classifier or several, by name, on `experiment.test`. Started again in the same workdir, it
goes on where it was stopped.
"""

import dataclasses
import importlib
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A way to measure features.

    Attributes:
        description: one line.
        module: in this package.
        labels: what is told apart, one of `experiment.LABELS`.
    """

    description: str
    module: str
    labels: str = "classes"

    def load(self) -> Callable:
        """Its `run`, imported now."""
        return importlib.import_module(f"{__name__}.{self.module}").run


PROTOCOLS = {
    "knn": Protocol("weighted k nearest neighbours by cosine", "knn"),
    "logistic": Protocol("logistic regression on frozen features, a quick check", "logistic"),
    "linear": Protocol("linear probes of every feature map at once", "linear"),
    "nonlinear": Protocol("non-linear probes of feature maps", "nonlinear"),
    "finetune": Protocol("fine-tuning of the whole network", "finetune"),
    "rotation": Protocol(
        "how well either half of the features tells the rotation", "rotation", labels="rotations"
    ),
    "voc_classification": Protocol(
        "the classes in PASCAL VOC's pictures: fc6-8, fine-tuning or linear SVMs",
        "voc_classification",
        labels="multi_label",
    ),
}


def protocol(name: str) -> Protocol:
    """The protocol of that name; an unknown one raises ValueError."""
    if name not in PROTOCOLS:
        raise ValueError(f"The protocol must be one of {', '.join(PROTOCOLS)}. Received: {name!r}")
    return PROTOCOLS[name]
