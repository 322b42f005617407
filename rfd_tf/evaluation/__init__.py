"""Measuring what features are worth, by protocols.

Each is a function

    run_PROTOCOL(experiment: Experiment) -> dict[str, Figures]

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
        module: beside this one; it has the function.
        function: its name.
        labels: what is told apart, one of `experiment.LABELS`.
    """

    description: str
    module: str
    function: str
    labels: str = "classes"

    def load(self) -> Callable:
        """Its function, imported now."""
        return getattr(importlib.import_module(f"rfd_tf.evaluation.{self.module}"), self.function)


PROTOCOLS = {
    "knn": Protocol("weighted k nearest neighbours by cosine", "classifiers", "run_knn"),
    "logistic": Protocol(
        "logistic regression on frozen features, a quick check", "classifiers", "run_logistic"
    ),
    "linear": Protocol("linear probes of every feature map at once", "probes", "run_linear"),
    "nonlinear": Protocol("non-linear probes of feature maps", "probes", "run_nonlinear"),
    "finetune": Protocol("fine-tuning of the whole network", "finetune", "run_finetune"),
    "rotation": Protocol(
        "how well either half of the features tells the rotation",
        "classifiers",
        "run_rotation",
        labels="rotations",
    ),
    "voc_classification": Protocol(
        "the classes in PASCAL VOC's images: fc6-8, fine-tuning or linear SVMs",
        "voc_classification",
        "run_voc_classification",
        labels="multi_label",
    ),
}


def protocol(name: str) -> Protocol:
    """The protocol of that name; an unknown one raises ValueError."""
    if name not in PROTOCOLS:
        raise ValueError(f"The protocol must be one of {', '.join(PROTOCOLS)}. Received: {name!r}")
    return PROTOCOLS[name]
