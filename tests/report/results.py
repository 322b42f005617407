"""Made-up results of evaluations, plausible in form."""

import numpy as np

from rfd_tf.evaluation.classification_figures import classification_figures
from rfd_tf.evaluation.results import EvaluationResult, save_result


def made_up_result(protocol, classifiers, class_names, class_counts, quality=0.5, images=200, **fields):
    """A result whose classifiers are right about a share `quality` of the images, rising with each."""
    rng = np.random.default_rng(len(classifiers))
    classes = len(class_names)
    labels = rng.integers(0, classes, images)
    figures = {}
    for position, name in enumerate(classifiers):
        scores = rng.random((images, classes))
        right = rng.random(images) < quality + 0.05 * position
        scores[np.flatnonzero(right), labels[right]] += 1
        extra = {"best_epoch": 7.0} if protocol == "linear" else {}
        figures[name] = classification_figures(labels, scores, class_counts, extra)
    given = {
        "model": "/tmp/run",
        "command": f"rfd evaluate --model=/tmp/run --protocol={protocol} --config=evaluate_folder",
        "settings": {"seed": 3, "batch_size": 32},
        "date": "2025-05-06T07:08:09+00:00",
    }
    return EvaluationResult(
        protocol=protocol,
        figures=figures,
        class_names=list(class_names),
        class_counts=list(class_counts),
        test_images=images,
        seconds=12.3,
        machine={"processor": "Some CPU", "cores": "2"},
        versions={"python": "3.11", "keras": "3.15"},
        **(given | fields),
    )


def save_made_up(folder, name, *arguments, **fields):
    """The same, written to an evaluation's folder of a run."""
    result = made_up_result(*arguments, **fields)
    save_result(result, folder / "evaluations" / name)
    return result
