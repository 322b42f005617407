"""`rfd rotations`: out of sample, resumable, in the original's format."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rfd_tf import cli
from rfd_tf.data import load_rotation_probabilities
from rfd_tf.runs import rotation_probabilities
from rfd_tf.runs.inputs import rotation_inputs
from rfd_tf.runs.rotation_probabilities import deal

TINY = {
    "--config": "image_folder",
    "--config.preprocessing.image_size": "16",
    "--config.preprocessing.resize": "16",
    "--config.preprocessing.train": "resize",
    "--config.preprocessing.flip": "False",
    "--config.backbone.name": "resnet8",
    "--config.backbone.features": "('pool',)",
    "--config.backbone.feature": "pool",
    "--config.backbone.width": "8",
    "--config.batch_size": "8",
    "--config.epochs": "10",
    "--config.optimizer.milestones": "((8,0.05),(10,0.005))",
    "--config.checkpoint_steps": "0",
    "--config.tensorboard": "False",
    "--config.deterministic": "False",
    "--folds": "2",
}
SLOPES, PLAIN = 30, 10


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Slopes, bright at the top, whose rotation can be told, and plain images, whose rotation cannot."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, count in (("plain", PLAIN), ("slope", SLOPES)):
        (root / name).mkdir()
        for number in range(count):
            level = np.linspace(200, 40, 16) if name == "slope" else np.full(16, 120)
            pixels = level[:, None, None] + rng.normal(scale=10, size=(16, 16, 3))
            Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(root / name / f"{number:02}.png")
    return root


def rotations(out, root, *overrides) -> int:
    flags = TINY | {"--config.data.root": root, "--out": out}
    flags |= dict(override.split("=", 1) for override in overrides)
    return cli.main(["rfd", "rotations", *(f"{name}={value}" for name, value in flags.items())])


@pytest.fixture(scope="module")
def trained_and_tested():
    """Of every fold, once it begins: (images to train on, images to predict)."""
    return []


@pytest.fixture(scope="module")
def out(tmp_path_factory, images, trained_and_tested):
    def recorded(training, test):
        trained_and_tested.append((set(training.valid), set(test.valid)))
        return rotation_inputs(training, test)

    path = tmp_path_factory.mktemp("out") / "prob.dat"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rotation_probabilities, "rotation_inputs", recorded)
        assert rotations(path, images) == 0
    return path


def test_tells_rotatable_from_ambiguous_images(out):
    probabilities = load_rotation_probabilities(out, PLAIN + SLOPES)
    plain, slope = probabilities[:PLAIN], probabilities[PLAIN:]
    assert slope[:, 0].mean() > 0.8
    assert slope[:, 1:].mean() < 0.1
    assert plain[:, 1:].mean() > 0.1  # nothing to go by: a quarter each


def test_parquet_and_image(out, images):
    table = pq.read_table(out.with_suffix(".parquet")).to_pydict()
    expected = load_rotation_probabilities(out, PLAIN + SLOPES)
    np.testing.assert_array_equal(np.array(table["probability"], "float32").reshape(-1, 4), expected)
    assert table["index"][:6] == [0, 0, 0, 0, 1, 1]
    assert table["view"][:6] == [0, 1, 2, 3, 0, 1]
    assert table["file"][-1] == str(images / "slope" / f"{SLOPES - 1:02}.png")
    assert Image.open(out.with_suffix(".png")).size > (800, 400)


def test_every_image_is_predicted_by_a_network_that_never_saw_it(out, trained_and_tested):
    assert len(trained_and_tested) == 2
    everything = set(range(PLAIN + SLOPES))
    for training, test in trained_and_tested:
        assert not training & test
        assert training | test == everything
    assert sorted(index for _, test in trained_and_tested for index in test) == sorted(everything)


def test_goes_on_with_the_folds_that_are_missing(out, images, monkeypatch):
    trained = []
    fit = rotation_probabilities.fit_probes

    def recorded(run, *arguments):
        trained.append(run.workdir.name)
        return fit(run, *arguments)

    monkeypatch.setattr(rotation_probabilities, "fit_probes", recorded)
    before = out.read_bytes()
    out.unlink()
    folds = out.parent / "prob.dat.folds"
    (folds / "fold-2-of-2" / "probabilities.npy").unlink()  # its checkpoints are there: nothing to train
    assert rotations(out, images) == 0
    assert trained == ["fold-2-of-2"]
    np.testing.assert_allclose(
        np.loadtxt(out), np.array(before.split(), dtype="float64"), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--folds=1", "at least 2 folds"),
        ("--folds=41", "40 images cannot be dealt to 41 folds"),
        ("--config.data.root=/nowhere", "/nowhere"),
        ("--config.backbone.feature=conv9", "conv9"),
    ],
)
def test_bad_values(override, message, tmp_path, images, capsys):
    assert rotations(tmp_path / "prob.dat", images, override) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "prob.dat").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=classify", "--out=prob.dat"], "not of `rfd rotations`"),
        (["--config=digits_lt", "--out=prob.png"], "--out is the text file"),
        (["--config=digits_lt"], "--out is needed"),
        (["--out=prob.dat"], "--config is needed"),
    ],
)
def test_bad_flags(arguments, message, capsys):
    assert cli.main(["rfd", "rotations", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_another_config_is_refused(out, images, capsys):
    assert rotations(out, images, "--config.seed=7") == 1
    assert "seed" in capsys.readouterr().err


def test_the_deal():
    valid = np.array([2, 3, 5, 7, 11, 13, 17])
    parts = deal(valid, 3, seed=0)
    assert sorted(np.concatenate(parts)) == valid.tolist()
    assert [len(part) for part in parts] == [3, 2, 2]
    assert any((a != b).any() for a, b in zip(parts, deal(valid, 3, seed=1), strict=True))
