"""Folders that others may have sent: of runs, evaluations, extractions, exports, data."""

import io
import json
from pathlib import Path

import numpy as np

from tests.faults.fuzzing import Reader
from tests.faults.readers.json_documents import changed_documents

_PLAIN = (ValueError, OSError)


def _config_seeds(folder: Path) -> list[bytes]:
    from rfd_tf.configs import base
    from rfd_tf.configs.classify import classify
    from rfd_tf.configs.pretrain import digits_lt

    return [json.dumps(config.get_config().to_dict()).encode() for config in (base, digits_lt, classify)]


def _run_config(path: Path):
    """What reports, summaries and a run that goes on make of it."""
    from rfd_tf.runs.workdir import check_workdir, read_run_config

    (path.parent / "config.json").write_bytes(path.read_bytes())
    check_workdir(path.parent, read_run_config(path.parent).to_dict())


def _model_info_seeds(folder: Path) -> list[bytes]:
    from rfd_tf.data import Preprocessing
    from rfd_tf.features import ModelInfo

    info = ModelInfo("tiny", Preprocessing(16, "resize"), {"features": (8,), "block1": (4, 4, 3)}, "uint8")
    return [info.to_json().encode()]


def _model_info(path: Path):
    from rfd_tf.features import ModelInfo

    info = ModelInfo.from_json(path.read_bytes(), str(path))
    assert all(type(size) is int and size > 0 for size in info.image_shape)
    assert all(type(size) is int and size >= 0 for shape in info.outputs.values() for size in shape)
    assert ModelInfo.from_json(info.to_json(), "") == info


def _result_seeds(folder: Path) -> list[bytes]:
    from rfd_tf.evaluation.results import ClassifierFigures, EvaluationResult, save_result

    figures = ClassifierFigures(
        0.5, None, 0.4, [0.5, None], {"many": 0.5, "few": None}, [[1, 1], [0, 2]], {"e": 3.0}
    )
    facts = {"settings": {"seed": 0}, "machine": {"cores": "2"}, "versions": {"keras": "3"}}
    result = EvaluationResult(
        protocol="linear",
        model="/run",
        command="rfd evaluate",
        figures={"conv5": figures},
        class_names=["a", "b"],
        class_counts=[3, 4],
        test_images=4,
        seconds=1.5,
        date="2026-01-01T00:00:00+00:00",
        **facts,
    )
    return [save_result(result, folder).read_bytes()]


def _result(path: Path):
    """Read, and shown in a table and a report."""
    from rfd_tf.evaluation.results import load_result, text_table
    from rfd_tf.report.figures import best_of, choose_classifier, control_of, most_confused

    result = load_result(path)
    text_table(result)
    results = {"linear": result}
    best_of(results, result.protocol)
    control_of(results, result.protocol, "conv5")
    if (section := choose_classifier(results)) is not None:
        most_confused(section)


def _settings(**changes):
    from rfd_tf.data import Preprocessing
    from rfd_tf.features import ModelInfo
    from rfd_tf.features.store import Settings

    info = ModelInfo("tiny", Preprocessing(16, "resize"), {"features": (4,)})
    fields = {"model": "/m", "info": info, "outputs": {"features": (4,)}, "check": {"features": [0.5]}}
    fields |= {
        "images": "/i",
        "num_images": 2,
        "listing": "0" * 64,
        "labelled": True,
        "class_names": ("a", "b"),
    }
    return Settings(
        **fields | {"format": "npz", "dtype": "float32", "shard_size": 2, "max_pixels": 100} | changes
    )


def _manifest_seeds(folder: Path) -> list[bytes]:
    return [json.dumps({"format": 1, "settings": _settings().to_dict()}).encode()]


def _manifest(path: Path):
    from rfd_tf.features.extract import load_features
    from rfd_tf.features.store import claim
    from rfd_tf.files import LocalStorage

    out, content = path.parent / "out", path.read_bytes()
    if not out.exists():
        _write_extraction(out, _settings())
    (out / "manifest.json").write_bytes(content)
    (out / "settings.json").write_bytes(content[len(b'{"format": 1, "settings": ') : -1])
    claim(LocalStorage(out), _settings())
    load_features(out)


def _write_extraction(out: Path, settings) -> None:
    from rfd_tf.features.store import Shard, write_manifest, write_shard
    from rfd_tf.files import LocalStorage

    storage, features = LocalStorage(out), np.ones((2, 4), "float32")
    shard = Shard(np.arange(2), ["a.jpg", "b.jpg"], np.array([0, 1]), {"features": features}, [])
    write_shard(storage, settings, 0, shard)
    write_manifest(storage, settings)


def _shard_seeds(format_name: str):
    def seeds(folder: Path) -> list[bytes]:
        settings = _settings(format=format_name)
        _write_extraction(folder / "out", settings)
        return [(folder / "out" / settings.shard_file(0)).read_bytes()]

    return seeds


def _shard(format_name: str):
    def read(path: Path):
        from rfd_tf.features.extract import load_features

        out, settings = path.parent / "out", _settings(format=format_name)
        (out / settings.shard_file(0)).write_bytes(path.read_bytes())
        features, index, paths, labels = load_features(out)
        assert len(index) == len(paths) == len(labels) == len(features["features"])

    return read


def _state_seeds(folder: Path) -> list[bytes]:
    return [json.dumps({"key": {"model": "a", "outputs": ["x"]}, "done": 2}).encode()]


def _cache_state(path: Path):
    """The state of a feature cache: continued if it fits, else made anew."""
    from rfd_tf.evaluation.features import _Store

    folder = path.parent / "cache"
    folder.mkdir(exist_ok=True)
    np.save(folder / "x.npy", np.zeros((3, 2), "float32"))
    (folder / "state.json").write_bytes(path.read_bytes())
    store = _Store(folder, {"model": "a", "outputs": ["x"]}, 3, ("x",), "float32")
    assert type(store.done) is int
    assert 0 <= store.done <= 3


def _npz_seeds(folder: Path) -> list[bytes]:
    seeds = []
    images = np.arange(96, dtype="uint8").reshape(2, 4, 4, 3)
    arrays = {"train_images": images, "train_labels": np.array([0, 1]), "class_names": np.array(["a", "b"])}
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **arrays)
        seeds.append(file.getvalue())
    file = io.BytesIO()
    np.savez(file, train_images=np.array([{}], object), train_labels=np.array([{}], object))
    return [*seeds, file.getvalue()]


def _npz(path: Path):
    from rfd_tf.data import load_npz

    return load_npz(path).labels


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    checkpoint, _ = _checkpoint(folder)
    return [(checkpoint.save() / "state.h5").read_bytes()]


def _checkpoint(folder: Path):
    import keras

    from rfd_tf.callbacks import TrainingCheckpoint

    if not hasattr(_checkpoint, "model"):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        model.optimizer.build(model.trainable_variables)
        _checkpoint.model = model
    checkpoint = TrainingCheckpoint(folder / "checkpoints", 2)
    checkpoint.set_model(_checkpoint.model)
    return checkpoint, _checkpoint.model


def _restored(path: Path):
    checkpoint, model = _checkpoint(path.parent)
    (path.parent / "checkpoints" / "step-0000000000" / "state.h5").write_bytes(path.read_bytes())
    checkpoint.restore(model, 0)


def _onnx_seeds(folder: Path) -> list[bytes]:
    import onnx
    from onnx import TensorProto, helper

    seed = _model_info_seeds(folder)[0]
    info = json.loads(seed) | {"outputs": {"features": [8]}, "input": "normalized"}
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 16, 16, 3])
    found = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["b", "n", "m", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["features"])], "g", [image], [found])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.helper.set_model_props(model, {"rfd_tf_model": json.dumps(info)})
    return [model.SerializeToString()]


def _onnx(path: Path):
    from rfd_tf.features.open_feature_model import open_onnx

    return open_onnx(path, threads=1).info


def _parity_seeds(folder: Path) -> list[bytes]:
    return [json.dumps({"format": 1, "model": "m", "versions": {"1": {"a": 1}, "2": {}}}).encode()]


def _parity(path: Path):
    from rfd_tf.exporting.export_model import write_report

    out, staging = path.parent / "out", path.parent / "staging"
    out.mkdir(exist_ok=True)
    staging.mkdir(exist_ok=True)
    (out / "parity.json").write_bytes(path.read_bytes())
    write_report(staging, out, "m", 3, {})


READERS = {
    "run_config": Reader(_config_seeds, _run_config, _PLAIN, ".json", (), changed_documents),
    "model_info": Reader(_model_info_seeds, _model_info, (ValueError,), ".json", (), changed_documents),
    "evaluation_json": Reader(_result_seeds, _result, _PLAIN, ".json", (), changed_documents),
    "extraction_manifest": Reader(_manifest_seeds, _manifest, _PLAIN, ".json", (), changed_documents),
    "extraction_npz": Reader(_shard_seeds("npz"), _shard("npz"), _PLAIN, ".npz"),
    "extraction_parquet": Reader(
        _shard_seeds("parquet"), _shard("parquet"), _PLAIN, ".parquet", frameworks=True
    ),
    "feature_cache": Reader(_state_seeds, _cache_state, (), ".json", (), changed_documents),
    "export_report": Reader(_parity_seeds, _parity, _PLAIN, ".json", (), changed_documents),
    "npz": Reader(_npz_seeds, _npz, _PLAIN, ".npz", (b"|O", b"'shape': (99999999999,)")),
    "training_checkpoint": Reader(_checkpoint_seeds, _restored, _PLAIN, ".h5", frameworks=True),
    "onnx": Reader(_onnx_seeds, _onnx, _PLAIN, ".onnx", frameworks=True),
}
