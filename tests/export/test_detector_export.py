"""A detector as SavedModel and file, compared with it; and as TensorFlow Serving serves it."""

import json
import shutil
import subprocess

import grpc
import numpy as np
import pytest
import tensorflow as tf
import yaml
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc

from rfd_tf import cli
from rfd_tf.detection.detector import DetectionOptions, SavedDetector, open_detector, save_detector
from rfd_tf.exporting import detector as module
from rfd_tf.exporting.detector import Example, export_detector
from rfd_tf.exporting.export_model import ExportOptions
from rfd_tf.exporting.parity import ParityError
from rfd_tf.exporting.serving_files import predict_request
from tests.data.images import animated_webp
from tests.detection.test_boxes import random_boxes
from tests.detection.tiny_detector import tiny_detector
from tests.export.models import encode, image
from tests.serving.server import ModelServer

NAME = "fast_rcnn"
# Little is suppressed of little that is likely: the outputs are of very different lengths.
OPTIONS = DetectionOptions((120, 80), longest=150, score=0.25, nms_iou=0.4, most=40)
SERVED = ExportOptions(formats=("saved_model", "keras"), serving=True)


def example(width, height, count, kind="JPEG"):
    proposals = random_boxes(np.random.default_rng(count), count, min(width, height) - 1)
    return Example(f"{width} x {height}", encode(image(width, height), kind), proposals)


EXAMPLES = [example(60, 40, 50), example(33, 70, 20, "PNG"), example(90, 90, 1)]


@pytest.fixture(scope="module")
def detector():
    return tiny_detector(OPTIONS)


@pytest.fixture(scope="module")
def out(detector, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "detector"
    export_detector(detector, out, SERVED, EXAMPLES, source="a test")
    return out


def assert_equal(found, expected):
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-4)


def test_every_form_finds_the_same(detector, out):
    saved, again = SavedDetector(out / "saved_model" / "1"), open_detector(out)
    assert saved.facts == again.facts() == detector.facts()
    others = [example(45, 50, 30), example(10, 120, 9), example(60, 40, 0)]
    lengths = set()
    for one in [*EXAMPLES, *others]:
        expected = detector(one.image, one.proposals)
        lengths.add(len(expected.scores))
        assert_equal(saved(one.image, one.proposals), expected)
        assert_equal(saved.from_file(one.encoded, one.proposals), expected)
        assert_equal(again(one.image, one.proposals), expected)
    assert 0 in lengths
    assert len(lengths) > 3


def test_the_report(out):
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "compose.yaml", "detector.keras", "parity.json", "saved_model", "serving")
    ]
    report = json.loads((out / "parity.json").read_text())
    entry = report["versions"]["1"]
    assert (report["model"], entry["source"]) == (NAME, "a test")
    assert entry["pictures"] == [one.name for one in EXAMPLES]
    assert set(entry["forms"]) == {"saved_model", "saved_model jpeg", "keras"}
    for form in entry["forms"].values():
        assert set(form["outputs"]) == {"boxes", "scores", "classes"}
        assert form["outputs"]["scores"]["max_value"] > 0.25
        assert form["outputs"]["boxes"]["max_difference"] < 0.01


class OneScoreOff(SavedDetector):
    def __call__(self, image, proposals):
        found = super().__call__(image, proposals)
        found.scores[-1:] += 0.001
        return found


class OneLess(SavedDetector):
    def from_file(self, encoded, proposals):
        found = super().from_file(encoded, proposals)
        return type(found)(found.boxes[1:], found.scores[1:], found.labels[1:])


@pytest.mark.parametrize(
    ("wrong", "message"), [(OneScoreOff, "saved_model: scores by 0.001"), (OneLess, "jpeg: boxes has shape")]
)
def test_what_differs_is_not_left(tmp_path, monkeypatch, wrong, message):
    monkeypatch.setattr(module, "SavedDetector", wrong)
    with pytest.raises(ParityError, match=message):
        export_detector(tiny_detector(), tmp_path / "out", ExportOptions(formats=("saved_model",)), EXAMPLES)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(detector, out, tmp_path):
    with pytest.raises(ValueError, match="onnx"):
        export_detector(detector, tmp_path / "out", ExportOptions(), EXAMPLES)
    with pytest.raises(ValueError, match="examples"):
        export_detector(detector, tmp_path / "out")
    with pytest.raises(ParityError, match="finds nothing"):
        export_detector(detector, tmp_path / "out", examples=[example(60, 40, 0)])
    with pytest.raises(FileExistsError, match="version 1"):
        export_detector(detector, out, examples=EXAMPLES)
    assert not list(tmp_path.iterdir())


def test_images_that_are_refused(out):
    saved = SavedDetector(out / "saved_model" / "1")
    for content, reason in ((b"text", "neither JPEG"), (animated_webp(), "animated WebP")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
            saved.from_file(content, EXAMPLES[0].proposals)
    with pytest.raises(tf.errors.InvalidArgumentError):
        saved.from_file(EXAMPLES[0].encoded[:300], EXAMPLES[0].proposals)


def assert_answers(outputs, expected):
    assert int(outputs["count"]) == len(expected.scores) > 0
    np.testing.assert_allclose(outputs["boxes"], expected.boxes, atol=1e-3)
    np.testing.assert_allclose(outputs["scores"], expected.scores, atol=1e-5)
    np.testing.assert_array_equal(outputs["classes"], expected.labels)


def test_served(detector, out, tmp_path):
    compose = (out / "compose.yaml").read_text()
    (service,) = yaml.safe_load(compose)["services"].values()
    assert service["command"] == [
        "--model_config_file=/serving/models.config",
        "--model_config_file_poll_wait_seconds=60",
        "--allow_version_labels_for_unavailable_models=true",
        "--monitoring_config_file=/serving/monitoring.config",
    ]
    one = EXAMPLES[0]
    expected = detector(one.image, one.proposals)
    with ModelServer(out / "saved_model", NAME, {"stable": 1}) as server:
        host = server.grpc_address.split("/")[2]
        with grpc.insecure_channel(host) as channel:
            service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

            def ask(request):
                answer = service.Predict(request)
                return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}

            proposals = {"proposals": one.proposals}
            answer = ask(predict_request(NAME, "serving_default", {"image": one.image, **proposals}))
            assert_answers(answer, expected)
            answer = ask(predict_request(NAME, "jpeg", {"encoded": one.encoded, **proposals}))
            assert_answers(answer, expected)
            file = out / "saved_model" / "1" / "assets.extra" / "tf_serving_warmup_requests"
            records = [record.numpy() for record in tf.data.TFRecordDataset(str(file))]
            assert len(records) == 1 + 2 * len(EXAMPLES)
            for record in records:
                answer = ask(prediction_log_pb2.PredictionLog.FromString(record).predict_log.request)
                assert "json" in answer or answer["count"] == len(answer["scores"])
        _ask_as_the_readme_says(out, server.rest_address, tmp_path)


def _ask_as_the_readme_says(out, address, folder):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    (folder / "photo.jpg").write_bytes(EXAMPLES[0].encoded)
    lines = (out / "README.md").read_text().splitlines()
    code = [line.strip() for line in lines if line.startswith("    ")]
    first = next(i for i, line in enumerate(code) if line.startswith("printf"))
    command = "\n".join(code[first : first + 2]).replace("127.0.0.1:8501", address.split("/")[2])
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=folder)
    outputs = json.loads(done.stdout)["outputs"]
    assert outputs["count"] == len(outputs["scores"])


def test_as_a_command(tmp_path, capsys):
    detector = tiny_detector()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.jpg").write_bytes(EXAMPLES[0].encoded)
    save_detector(detector, tmp_path / "run" / "detector.keras")
    command = ["rfd", "export", f"--model={tmp_path / 'run'}", f"--images={tmp_path / 'images'}"]
    assert cli.main([*command, f"--out={tmp_path / 'out'}"]) == 0
    shown = capsys.readouterr().out
    assert "compared on 1 images" in shown
    assert "saved_model jpeg    classes" in shown
    assert open_detector(tmp_path / "out").facts() == detector.facts()
    assert cli.main([*command, f"--out={tmp_path / 'truncated'}", "--svd=3,2"]) == 0
    assert open_detector(tmp_path / "truncated").model.ranks == (3, 2)
    assert cli.main([*command, f"--out={tmp_path / 'second'}", "--formats=onnx"]) == 1
    assert cli.main([*command, f"--out={tmp_path / 'second'}", "--fold_batch_norm"]) == 1
    assert "--fold_batch_norm is not for detectors" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
