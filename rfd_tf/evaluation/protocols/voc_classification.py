"""Classification in PASCAL VOC: which of the classes are in a picture, by one of the field's methods."""

import importlib

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.results import MultiLabelFigures

# method -> (module beside this one, function)
METHODS = {
    "fc6-8": ("voc_network", "train_dense"),
    "finetune": ("voc_network", "train_all"),
    "svm": ("voc_svm", "run"),
    "low_shot_svm": ("voc_low_shot", "run"),
}


def run(experiment: Experiment) -> dict[str, MultiLabelFigures]:
    """The figures of `voc.method`, by feature, and number of shots or crops.

    Raises:
        ValueError: on another method, and what the methods have to say.
    """
    method = experiment.config.get("voc", {}).get("method")
    if method not in METHODS:
        raise ValueError(
            f"`voc.method` must be one of {', '.join(METHODS)}: take --config=voc_classification. "
            f"Received: {method!r}"
        )
    module, function = METHODS[method]
    package = __name__.rpartition(".")[0]
    return getattr(importlib.import_module(f"{package}.{module}"), function)(experiment)
