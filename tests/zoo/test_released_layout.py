"""RFD's code writes one file per network: the released backbone has no heads, which have their own files."""

import json
import logging

import numpy as np
import pytest

import zoo
from rfd_tf import cli
from rfd_tf.cli.models import open_model
from rfd_tf.cli.zoo import main
from tests.zoo.released import NARROW, alexnet_state, register_narrow, resnet_state, save_released, save_torch
from tests.zoo.test_conversion import assert_states_equal
from zoo.torch_checkpoint import read_state_dict

IMAGES = np.random.default_rng(5).standard_normal((2, 224, 224, 3)).astype("float32")
HEADS = {"rotation_probabilities", "embedding"}


@pytest.fixture
def state():
    return alexnet_state(heads=True)


@pytest.fixture
def files(tmp_path, state):
    register_narrow(preprocessing=zoo.InputFormat((224, 224)))
    return save_released(tmp_path, state)


def expected_heads(features, state):
    """NumPy's: logits [B, 4] and embedding [B, 128]."""
    rotation, invariant = np.split(np.asarray(features), 2, axis=1)
    projected = invariant @ state["norm.0.weight"].T + state["norm.0.bias"]
    logits = rotation @ state["fc_classifier.0.weight"].T + state["fc_classifier.0.bias"]
    return logits, projected / np.linalg.norm(projected, axis=1, keepdims=True)


def test_a_backbone_without_heads_is_taken_as_it_is(files, caplog):
    with caplog.at_level(logging.INFO, "absl"):
        feature_model = open_model(f"zoo:narrow={files['backbone']}")
    assert f"{files['backbone']} holds no heads for rotation_logits, embedding" in caplog.text
    assert not HEADS & feature_model.info.outputs.keys()
    assert feature_model.info.outputs["features"] == (NARROW,)
    assert feature_model.info.outputs["rotation"] == (NARROW // 2,)


def test_heads_of_the_same_file_are_taken_without_asking(files, tmp_path, state, caplog):
    save_torch(tmp_path / "whole.pth", state)
    with caplog.at_level(logging.INFO, "absl"):
        feature_model = open_model(f"zoo:narrow={tmp_path / 'whole.pth'}")
    assert feature_model.info.outputs.keys() > HEADS
    assert "holds no heads" not in caplog.text


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        (["rotation", "projection"], {"rotation_logits", "embedding"}),
        (["rotation"], {"rotation_logits"}),
        (["projection"], {"embedding"}),
    ],
)
def test_heads_from_files_of_their_own(files, state, parts, found):
    model = zoo.load("narrow", from_file=files["backbone"], heads_from=[files[part] for part in parts])
    outputs = model(IMAGES, training=False)
    assert set(outputs) & {"rotation_logits", "embedding"} == found
    for name, value in zip(
        ("rotation_logits", "embedding"), expected_heads(outputs["fc_block"], state), strict=True
    ):
        if name in found:
            np.testing.assert_allclose(outputs[name], value, atol=1e-4)


def test_one_file_with_both_heads_bare_and_by_zip(files, tmp_path, state):
    heads = {key: value for key, value in state.items() if not key.startswith("_feature")}
    save_torch(tmp_path / "heads.pth", heads, legacy=False, prefix="", nest=None)
    model = zoo.load("narrow", from_file=files["backbone"], heads=True, heads_from=tmp_path / "heads.pth")
    assert {"rotation_logits", "embedding"} < set(model.output)


def test_extracted_features_have_the_heads_of_their_files(files, tmp_path, state):
    parts = (files["rotation"], files["projection"])
    feature_model = open_model(f"zoo:narrow={files['backbone']}", heads_from=parts)
    outputs = feature_model(IMAGES)
    logits, embedding = expected_heads(outputs["features"], state)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(
        outputs["rotation_probabilities"], odds / odds.sum(1, keepdims=True), atol=1e-4
    )
    np.testing.assert_allclose(outputs["embedding"], embedding, atol=1e-4)


def test_a_round_trip_through_one_file_is_bit_exact(files, tmp_path, state, capsys):
    sources = [f"--from_file={files['backbone']}", f"--heads_from={files['rotation']}"]
    sources.append(f"--heads_from={files['projection']}")
    out = tmp_path / "out" / "a.keras"
    assert main(["rfd zoo", "convert", "narrow", *sources, f"--out={out}"]) == 0
    report = json.loads(out.with_name("a.keras.json").read_text())
    assert report["heads"] == ["rotation_logits", "embedding"]
    assert list(report["heads_from"]) == [files["rotation"].name, files["projection"].name]
    assert main(["rfd zoo", "verify", "narrow", *sources, f"--model={out}"]) == 0
    assert "embedding" in capsys.readouterr().out
    zoo.convert("narrow", out, tmp_path / "out" / "b.pth")
    assert_states_equal(read_state_dict(tmp_path / "out" / "b.pth"), state)


def test_one_head_makes_the_round_trip_too(files, tmp_path):
    zoo.convert("narrow", files["backbone"], tmp_path / "b.pth", heads_from=files["projection"])
    written = read_state_dict(tmp_path / "b.pth")
    assert "norm.0.weight" in written
    assert "fc_classifier.0.weight" not in written
    assert json.loads((tmp_path / "b.pth.json").read_text())["heads"] == ["embedding"]


def test_errors_name_the_file(files, tmp_path, state):
    backbone, rotation = files["backbone"], files["rotation"]
    save_torch(tmp_path / "x.pth", resnet_state())
    (tmp_path / "damaged.pth").write_bytes(rotation.read_bytes()[:-3])
    save_torch(tmp_path / "wide.pth", {k: np.ones((4, 7), "float32") for k in ("fc_classifier.0.weight",)})
    cases = [
        (backbone, True, (), backbone, r"holds no fc_classifier.0.weight.*by `heads_from`"),
        (backbone, True, rotation, backbone, r"holds no norm.0.weight, norm.0.bias"),
        (backbone, False, tmp_path / "x.pth", tmp_path / "x.pth", "holds no head; the keys"),
        (backbone, False, tmp_path / "damaged.pth", tmp_path / "damaged.pth", "is cut short"),
        (backbone, False, tmp_path / "none.pth", tmp_path / "none.pth", "there is no such file"),
        (backbone, False, [rotation, rotation], rotation, "holds fc_classifier.0.bias, as another file"),
        (backbone, False, tmp_path / "wide.pth", backbone, r"lacks \(1\): fc_classifier.0.bias"),
        (tmp_path / "x.pth", False, (), tmp_path / "x.pth", "The file lacks"),
    ]
    for file, heads, heads_from, named, message in cases:
        with pytest.raises(zoo.ZooError, match=message) as caught:
            zoo.load("narrow", from_file=file, heads=heads, heads_from=heads_from)
        assert str(caught.value).startswith(str(named))
    with pytest.raises(zoo.ZooError, match=r"`heads` must be True, False or 'auto'. Received: heads='yes'"):
        zoo.load("narrow", from_file=backbone, heads="yes")
    register_narrow("folded", "alexnet_no_bn")
    with pytest.raises(zoo.ZooError, match="has no heads: leave out"):
        zoo.load("folded", from_file=backbone, heads_from=rotation)


def test_a_file_to_verify_that_is_another_network(files, tmp_path, capsys):
    zoo.convert("narrow", files["backbone"], tmp_path / "a.keras")
    save_torch(tmp_path / "x.pth", resnet_state())
    arguments = ["verify", "narrow", f"--from_file={tmp_path / 'x.pth'}", f"--model={tmp_path / 'a.keras'}"]
    assert main(["rfd zoo", *arguments]) == 1
    assert f"{tmp_path / 'x.pth'}: The file lacks" in capsys.readouterr().err


def test_heads_that_do_not_count_are_not_looked_at(files, tmp_path, state):
    """A rotation head of other widths, in a file of which only the backbone is wanted."""
    state["fc_classifier.0.weight"] = np.ones((3, 5), "float32")
    save_torch(tmp_path / "x.pth", state)
    report = zoo.convert("narrow", tmp_path / "x.pth", tmp_path / "x.keras")
    assert "fc_classifier.0.weight" in report.left_out


@pytest.fixture
def photos(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 50, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_extract(files, photos, tmp_path, capsys):
    common = [f"--model=zoo:narrow={files['backbone']}", f"--images={photos}"]
    assert cli.main(["rfd", "extract", *common, f"--out={tmp_path / 'a'}"]) == 0
    wanted = "--outputs=features,rotation_probabilities"
    assert cli.main(["rfd", "extract", *common, wanted, f"--out={tmp_path / 'b'}"]) == 1
    assert "has no output 'rotation_probabilities'" in capsys.readouterr().err
    heads = [wanted, f"--heads_from={files['rotation']}"]
    assert cli.main(["rfd", "extract", *common, *heads, f"--out={tmp_path / 'b'}"]) == 0
    from rfd_tf.features import load_features

    loaded, *_ = load_features(tmp_path / "b")
    np.testing.assert_allclose(loaded["rotation_probabilities"].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("command", ["extract", "export", "evaluate"])
def test_heads_from_is_for_entries_of_the_zoo(command, files, photos, tmp_path, capsys):
    arguments = {
        "extract": [f"--images={photos}", f"--out={tmp_path / 'out'}"],
        "export": [f"--out={tmp_path / 'out'}"],
        "evaluate": ["--protocol=knn", "--config=evaluate_folder", f"--workdir={tmp_path / 'out'}"],
    }[command]
    arguments += [f"--model={tmp_path}", f"--heads_from={files['rotation']}"]
    assert cli.main(["rfd", command, *arguments]) in (1, 2)
    assert "--heads_from goes with --model=zoo:NAME" in capsys.readouterr().err
