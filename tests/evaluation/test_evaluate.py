"""`rfd evaluate` on a run's folder, against the model itself and scikit-learn."""

import json

import keras
import numpy as np
import pytest

from rfd_tf import cli
from rfd_tf.data import digits
from rfd_tf.evaluation.results import load_result, load_results
from rfd_tf.features import open_feature_model
from rfd_tf.models import InstanceTask, RotationDecoupling, create_backbone

RECIPE = {"image_size": 16, "train": "resize", "mean": (0.3, 0.3, 0.3), "std": (0.4, 0.4, 0.4)}
TRAINING, TEST = 90, 40


def save_run(folder, seed: int) -> RotationDecoupling:
    """An untrained network of moved batch-norm statistics, as the end of a run."""
    keras.utils.set_random_seed(seed)
    backbone = create_backbone("resnet8", (16, 16, 3), ["block1", "fc_block"], width=4, dense_width=16)
    rng = np.random.default_rng(seed)
    backbone(rng.normal(size=(8, 16, 16, 3)), training=True)
    for variable in backbone.trainable_variables:
        variable.assign(variable + 0.1 * rng.normal(size=variable.shape))
    model = RotationDecoupling(
        backbone, TRAINING, feature_name="fc_block", instance_task=InstanceTask(num_negatives=2)
    )
    folder.mkdir(exist_ok=True)
    backbone.save(folder / "backbone.keras")
    model.heads().save(folder / "heads.keras")
    config = {"preprocessing": RECIPE, "backbone": {"feature": "fc_block"}}
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    members = {}
    for split, name, count in (("train", "train", TRAINING), ("test", "validation", TEST)):
        source = digits(name)
        members |= {f"{split}_images": source.images[:count], f"{split}_labels": source.labels[:count]}
    np.savez(path, **members, class_names=[f"digit {i}" for i in range(10)])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, save_run(folder, seed=0)


@pytest.fixture
def evaluate(run, arrays, capsys):
    """The command in this process: (exit status, its output, its errors)."""

    def evaluate(protocol, *overrides, model=run[0], config="evaluate_cifar10_lt"):
        flags = {
            "--model": str(model),
            "--protocol": protocol,
            "--config": config,
            "--config.data.root": str(arrays),
            "--config.validation.root": str(arrays),
            "--config.preprocessing.train": "resize",
            "--config.batch_size": "32",
            "--config.features": "('features',)",
            "--config.deterministic": "False",
        } | dict(override.split("=", 1) for override in overrides)
        status = cli.main(["rfd", "evaluate", *(f"{name}={value}" for name, value in flags.items())])
        output = capsys.readouterr()
        return status, output.out, output.err

    return evaluate


def images(path, split):
    with np.load(path) as archive:
        raw, labels = archive[f"{split}_images"], archive[f"{split}_labels"]
    from rfd_tf.data import Preprocessing

    preprocessing = Preprocessing(**RECIPE)
    return np.stack([preprocessing.eval_image(image).numpy() for image in raw]), labels


def accuracy(predicted, labels):
    return pytest.approx(np.mean(predicted == labels))


def test_knn_equals_scikit_learns(evaluate, run, arrays, tmp_path):
    from sklearn.neighbors import KNeighborsClassifier

    overrides = (
        "--config.features=('features','block1')",
        "--config.knn.k=(1,15)",
        "--config.knn.temperature=0.2",
    )
    status, output, error = evaluate("knn", *overrides, f"--workdir={tmp_path / 'knn'}")
    assert status == 0, error
    result = load_result(tmp_path / "knn" / "evaluation.json")
    assert list(result.figures) == ["features, k=1", "features, k=15", "block1, k=1", "block1, k=15"]
    assert all(name in output for name in result.figures)
    (training, labels), (test, expected) = images(arrays, "train"), images(arrays, "test")
    feature_model = open_feature_model(run[0])
    for name in ("features", "block1"):
        reference, queries = feature_model(training, [name])[name], feature_model(test, [name])[name]
        if name == "block1":
            reference, queries = reference.mean(axis=(1, 2)), queries.mean(axis=(1, 2))
        for k in (1, 15):
            theirs = KNeighborsClassifier(
                k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.2)
            ).fit(reference, labels)
            figures = result.figures[f"{name}, k={k}"]
            assert figures.top1 == accuracy(theirs.predict(queries), expected)
    assert result.class_names[3] == "digit 3"
    assert result.class_counts == np.bincount(labels).tolist()
    assert (result.test_images, result.protocol, result.settings["knn"]["k"]) == (TEST, "knn", [1, 15])
    assert result.command.startswith("rfd evaluate --model=")
    assert result.model.endswith("run/backbone.keras")


def test_logistic_regression_equals_scikit_learns_and_lands_beside_the_run(evaluate, run, arrays):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    status, _, error = evaluate("logistic", "--config.logistic.c=0.1")
    assert status == 0, error
    (result,) = load_results(run[0])
    (training, labels), (test, expected) = images(arrays, "train"), images(arrays, "test")
    feature_model = open_feature_model(run[0], [])
    reference, queries = (feature_model(part)["features"].astype("float64") for part in (training, test))
    scaler = StandardScaler().fit(reference)
    theirs = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(reference), labels)
    predicted = theirs.predict(scaler.transform(queries))
    assert result.figures["features"].top1 == accuracy(predicted, expected)
    again, output, _ = evaluate("logistic", "--config.logistic.c=0.1")
    assert again == 0
    assert f"{100 * result.figures['features'].top1:.1f}" in output


def test_rotation_figures_are_those_of_the_training_model(evaluate, run, arrays, tmp_path):
    _, model = run
    overrides = ("--config.rotation.training_images=30", f"--workdir={tmp_path / 'rotation'}")
    status, _, error = evaluate("rotation", *overrides)
    assert status == 0, error
    result = load_result(tmp_path / "rotation" / "evaluation.json")
    assert list(result.figures) == [
        "own head, rotation features",
        "own head, invariant features",
        "logistic regression, rotation features",
        "logistic regression, invariant features",
    ]
    test, _ = images(arrays, "test")
    outputs = model({"image": test, "index": np.arange(TEST)}, training=False)
    turns = np.tile(np.arange(4), TEST)
    for half, logits in (("rotation", "rotation_logits"), ("invariant", "invariant_rotation_logits")):
        predicted = np.argmax(outputs[logits], axis=1)
        figures = result.figures[f"own head, {half} features"]
        assert figures.top1 == accuracy(predicted, turns)
        assert np.sum(figures.confusion) == 4 * TEST
    assert result.class_names == ["0 degrees", "90 degrees", "180 degrees", "270 degrees"]
    assert result.class_counts == [30] * 4
    # A digit's rotation can be told even from random features.
    assert result.figures["logistic regression, rotation features"].top1 > 0.4


def test_another_config_or_model_is_refused_in_the_same_folder(evaluate, arrays, tmp_path):
    model = tmp_path / "run"
    save_run(model, seed=1)
    assert evaluate("knn", model=model)[0] == 0
    status, _, error = evaluate("knn", "--config.label_fraction=0.5", model=model)
    assert status == 1
    assert "label_fraction: 1.0 there, 0.5 now" in error
    save_run(model, seed=2)
    status, _, error = evaluate("knn", model=model)
    assert status == 1
    assert "model_fingerprint" in error


@pytest.mark.parametrize(
    ("protocol", "overrides", "message"),
    [
        ("knn", ["--config.knn.k=()"], "`knn.k`"),
        ("knn", ["--config.knn.temperature=0.0"], "temperature=0.0"),
        ("knn", ["--config.label_fraction=0.0"], "label_fraction=0.0"),
        ("knn", ["--config.features=('conv9',)"], "Unknown feature 'conv9'"),
        ("knn", ["--config.data.root=/nowhere.npz"], "/nowhere.npz"),
        ("knn", ["--config.batch_size=0"], "batch_size"),
        ("knn", ["--config.dtype_policy=float8"], "float8"),
        ("logistic", ["--config.logistic.c=0.0"], "c=0.0"),
        ("logistic", ["--model=/nowhere"], "No model at /nowhere"),
        ("rotation", ["--config.rotation.training_images=-1"], "Received: -1"),
    ],
)
def test_bad_values_are_refused(evaluate, tmp_path, protocol, overrides, message):
    status, _, error = evaluate(protocol, *overrides, f"--workdir={tmp_path / 'new'}")
    assert status == 1
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol=knn", "--config=evaluate_folder"], "--model is needed"),
        (["--model=a.onnx", "--config=evaluate_folder"], "--protocol is needed"),
        (["--model=a.onnx", "--protocol=knn"], "--config is needed"),
        (["--model=a.onnx", "--protocol=knn", "--config=evaluate_folder"], "--workdir is needed"),
        (["--model=a.onnx", "--protocol=magic", "--config=evaluate_folder"], "magic"),
        (["--model=a.onnx", "--protocol=knn", "--config=nope"], "nope is neither a readable file nor one of"),
        (["--model=a.onnx", "--protocol=knn", "--config=imagenet"], "a config of `rfd train`"),
        (["--model=a.onnx", "--protocol=knn", "--config=evaluate_folder", "--config.epoch=3"], "epoch"),
    ],
)
def test_bad_flags(arguments, message, capsys):
    assert cli.main(["rfd", "evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rfd evaluate: ")
    assert message in error


def test_configs_of_evaluations_are_refused_by_train(capsys, tmp_path):
    assert cli.main(["rfd", "train", "--config=linear_imagenet", f"--workdir={tmp_path / 'run'}"]) == 2
    assert "is a config of `rfd evaluate`, not of `rfd train`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main(["rfd", "train", "--help"]) == 0
    assert "linear_imagenet" not in capsys.readouterr().out
    assert cli.main(["rfd", "evaluate", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "linear_imagenet" in shown
    assert "digits_lt" not in shown
