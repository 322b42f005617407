"""`rfd train` on backbones of other libraries: a step, the files it leaves, and their evaluation."""

import keras
import numpy as np
import pytest

from rfd_tf import cli
from rfd_tf.evaluation.results import load_result
from rfd_tf.features import open_feature_model
from tests.contract import to_numpy
from tests.data.images import write

STAGES = ["stage2", "stage3", "stage4", "stage5"]
OWN = "tests.models.test_libraries:network"
NETWORKS = {  # name: (the library, features)
    OWN: ("", ["stage2", "stage3", "stage4", "pool"]),
    "keras_cv.ResNet18": ("keras_cv", [*STAGES, "pool"]),
    "keras_hub.ResNet18": ("keras_hub", [*STAGES, "pool"]),
    "keras.applications.MobileNetV2": ("", [*STAGES, "pool"]),
}
LOSSES = ("rotation_", "invariance_", "instance_")
PER_CLASS = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight images of two classes."""
    files = [f"{kind}/{number}.jpg" for kind in ("cat", "dog") for number in range(PER_CLASS)]
    return write(tmp_path_factory.mktemp("photos"), *files)


def evaluate(run, protocol, photos, *flags):
    status = cli.main(
        [
            "rfd",
            "evaluate",
            f"--model={run}",
            f"--protocol={protocol}",
            "--config=evaluate_folder",
            f"--config.data.root={photos}",
            f"--config.validation.root={photos}",
            "--config.batch_size=4",
            *flags,
        ]
    )
    assert status == 0
    return load_result(run / "evaluations" / protocol / "evaluation.json").figures


@pytest.mark.parametrize(
    "name", [OWN, *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != OWN)]
)
def test_a_step_of_pretraining(name, photos, tmp_path):
    library, features = NETWORKS[name]
    if library:
        pytest.importorskip(library)
    run = tmp_path / "run"
    flags = {
        "data.root": photos,
        "preprocessing.image_size": 32,
        "preprocessing.resize": 32,
        "backbone.name": name,
        "backbone.dense_width": 8,
        "batch_size": 8,
        "epochs": 1,
        "optimizer.milestones": "((1,1e-2),)",
        "checkpoint_steps": 0,
        "tensorboard": False,
    }
    fields = [f"--config.{field}={value}" for field, value in flags.items()]
    assert cli.main(["rfd", "train", "--config=image_folder", f"--workdir={run}", *fields]) == 0

    header, row = (line.split(",") for line in (run / "history.csv").read_text().splitlines())
    history = dict(zip(header, row, strict=True))
    assert all(np.isfinite(float(history[f"{part}loss"])) for part in ("", *LOSSES))
    backbone = keras.saving.load_model(run / "backbone.keras")
    assert list(backbone.output) == [*features, "fc_block"]
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    found, again = open_feature_model(run)(images), backbone(images)
    np.testing.assert_allclose(found["features"], to_numpy(again["fc_block"]), atol=1e-5)

    knn = evaluate(run, "knn", photos, "--config.features=('pool','features')", "--config.knn.k=(3,)")
    assert knn.keys() == {"pool, k=3", "features, k=3"}
    epochs = ("--config.epochs=1", "--config.optimizer.milestones=((1,1e-2),)")
    linear = evaluate(run, "linear", photos, "--config.features=('stage4',)", *epochs)
    assert linear.keys() == {"stage4"}
