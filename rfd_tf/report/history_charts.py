import numpy as np

from rfd_tf.report.line_chart import LineChart, Series, line_chart

_LOSSES = (
    ("rotation_loss", "Rotation loss", "How badly the rotation is told from the rotation features."),
    (
        "invariance_loss",
        "Invariance loss",
        "How much the invariant features change when the picture is turned. Their size counts too, so a fall "
        "alone is no proof of invariance.",
    ),
    (
        "instance_loss",
        "Instance loss",
        "How badly a picture is told from others by its invariant features. Validation pictures have no "
        "place in the memory bank and are compared with themselves, turned: the two lines are not the same "
        "quantity.",
    ),
)


def history_charts(history: dict[str, np.ndarray]) -> list[LineChart]:
    """Charts of what a run's history holds, over epochs counted from 1."""
    epochs = (
        history["epoch"] + 1 if "epoch" in history else np.arange(1, len(next(iter(history.values()))) + 1)
    )
    charts = [_accuracies(history, epochs), _knn(history, epochs)]
    charts += [
        line_chart(title, epochs, _both(history, column), caption) for column, title, caption in _LOSSES
    ]
    charts.append(_collapse(history, epochs))
    return [chart for chart in charts if chart is not None]


def _accuracies(history, epochs) -> LineChart | None:
    names = {"rotation_accuracy": "rotation features", "invariant_rotation_accuracy": "invariant features"}
    series = []
    for (column, name), colour in zip(names.items(), ("blue", "orange"), strict=True):
        series += _both(history, column, f"{name}, ", colour)
    return line_chart(
        "Rotation accuracy",
        epochs,
        series,
        "How often the rotation of a picture is told rightly. From the rotation features it should rise; "
        "from the invariant features it should stay at chance, 25 %.",
        percent=True,
        reference=(0.25, "chance"),
    )


def _knn(history, epochs) -> LineChart | None:
    if "knn_accuracy" not in history:
        return None
    return line_chart(
        "kNN accuracy",
        epochs,
        [Series("validation, leave one out", history["knn_accuracy"], "blue")],
        "Share of validation pictures whose class their nearest neighbours among the others tell.",
        percent=True,
    )


def _collapse(history, epochs) -> LineChart | None:
    names = {"bank_cosine": ("two embeddings, mean cosine", "blue"), "dead_features": ("features", "orange")}
    series = [
        Series(name, history[column], color) for column, (name, color) in names.items() if column in history
    ]
    return line_chart(
        "How alike images have become",
        epochs,
        series,
        "The mean cosine between the embeddings of two training images, and the share of the features that "
        "are the same for every image. Both should stay near 0; where they rise to 100 %, the features have "
        "collapsed.",
        percent=True,
    )


def _both(history, column: str, name: str = "", colour: str = "blue") -> list[Series]:
    """Training, dashed, and validation, of one column."""
    series = []
    if column in history:
        series.append(Series(f"{name}training", history[column], colour, dashed=True))
    if f"val_{column}" in history:
        series.append(Series(f"{name}validation", history[f"val_{column}"], colour))
    return series
