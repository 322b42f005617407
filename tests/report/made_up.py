"""Made-up evaluations and reports, plausible in form."""

import datetime

import numpy as np

from rfd_tf.evaluation.results import EvaluationResult, classification_figures, save_result
from rfd_tf.report.collect import DataFacts, RunFacts, RunReport
from rfd_tf.report.figures import ClassifierSection, KeyFigure, choose_classifier
from rfd_tf.report.sample import Sample
from rfd_tf.report.sections import Card, MapSection, RotatedView, RotationSection, neighbour_section


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
        extra = {"best_epoch": 7.0, "best_top1": 0.5} if protocol == "linear" else {}
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


HOSTILE = [
    "<script>document.title='hacked'</script>",
    '"><img src=x onerror="document.title=\'hacked\'">',
    "' onmouseover='document.title=\"hacked\"",
    "</style></svg><iframe src=javascript:document.title='hacked'>",
    "a{{ 7 * 7 }}b & c",
]


def made_up_report(class_names, class_counts, images=60, side=20, evaluations=None, text="plain"):
    """A report with every section, of noise; `text` stands wherever a user's text can."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(class_names), images)
    sample = Sample(
        source="validation",
        indices=np.arange(images),
        features=rng.normal(size=(images, 12)).astype("float32"),
        thumbnails=np.frombuffer(rng.bytes(images * side * side * 3), "uint8").reshape(images, side, side, 3),
        labels=labels,
        class_names=list(class_names),
        names=[f"/data/{text}/{i}.png" for i in range(images)],
    )
    results = (
        evaluations
        if evaluations is not None
        else {
            f"linear {text}": made_up_result(
                "linear", ["conv1", text], class_names, class_counts, command=text, model=text
            )
        }
    )
    knn = classification_figures(labels, rng.integers(0, len(class_names), images), class_counts)
    classifier = choose_classifier(results) or ClassifierSection(
        text, text, knn, list(class_names), list(class_counts), images
    )
    return RunReport(
        facts=RunFacts(
            name=text,
            workdir=f"/runs/{text}",
            finished=datetime.datetime(2025, 1, 2, tzinfo=datetime.UTC),
            network=text,
            parameters=1234567,
            feature=text,
            feature_width=12,
            data=[
                DataFacts("training", text, 100, len(class_names), 2, f"3 .heic, 1 {text}"),
                DataFacts("validation", text, None, None, 0),
            ],
            config={"epochs": 5, "data": {"root": text}},
        ),
        key_figures=[KeyFigure(text, 0.5, 0.25, text), KeyFigure("none", None, None, "")],
        history=made_up_history(5),
        filters=rng.normal(size=(3, 3, 3, 10)).astype("float32"),
        rotations=_rotations(sample),
        neighbours=neighbour_section(sample, sample, np.asarray(class_counts)),
        classifier=classifier,
        feature_map=MapSection(
            rng.random((images, 2)), labels, list(class_names), sample.thumbnails, "validation", text
        ),
        evaluations=results,
        notes={"images": [text], "curves": [text]},
        sample=sample,
        machine={"processor": text},
        versions={"python": text},
    )


def made_up_history(epochs):
    columns = [
        f"{prefix}{name}"
        for prefix in ("", "val_")
        for name in (
            "rotation_accuracy",
            "invariant_rotation_accuracy",
            "rotation_loss",
            "invariance_loss",
            "instance_loss",
        )
    ]
    rng = np.random.default_rng(1)
    history = {name: rng.uniform(0.2, 0.9, epochs) for name in columns}
    knn = np.full(epochs, np.nan)
    knn[::2] = 0.4
    return {"epoch": np.arange(epochs, dtype="float64"), "knn_accuracy": knn, **history}


def _rotations(sample):
    rng = np.random.default_rng(2)

    def view(row, turned):
        card = Card(np.rot90(sample.thumbnails[row], turned), sample.names[row], sample.label_name(row))
        return RotatedView(card, turned, rng.dirichlet(np.ones(4)))

    samples = [[view(row, turned) for turned in range(4)] for row in range(12)]
    mistakes = [v for views in samples for v in views if not v.right]
    return RotationSection(samples, mistakes, rng.multinomial(30, [0.4, 0.3, 0.2, 0.1], 4), 30, "validation")
