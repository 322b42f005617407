"""What makes an export a folder for TensorFlow Serving."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from rfd_tf.exporting.export_model import ExportOptions, export_model
from rfd_tf.exporting.serving_files import write_serving_files
from rfd_tf.serving import ServingClient
from rfd_tf.serving.transport import MAX_BATCH
from tests.data.images import animated_webp, encoded, random_image
from tests.serving.exported import NAME
from tests.serving.server import ModelServer
from tests.serving.serving_schemas import batching_parameters, monitoring_config

ROOT = Path(__file__).parents[2]
SAMPLES = [
    encoded(random_image(40, 50)),
    encoded(random_image(30, 20, 1).convert("L")),
    encoded(random_image(), "PNG"),
]
WARMUP = Path("saved_model", "1", "assets.extra", "tf_serving_warmup_requests")


@pytest.fixture(scope="module")
def folder(exported, feature_model, tmp_path_factory):
    folder = shutil.copytree(exported, tmp_path_factory.mktemp("serving") / "export")
    write_serving_files(folder, feature_model.info, 1, SAMPLES)
    return folder


def model_config(folder):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((folder / "serving" / "models.config").read_text(), config)
    (model,) = config.model_config_list.config
    return model


def versions_and_labels(folder):
    model = model_config(folder)
    return list(model.model_version_policy.specific.versions), dict(model.version_labels)


def test_model_config(folder):
    model = model_config(folder)
    assert (model.name, model.base_path, model.model_platform) == (NAME, f"/models/{NAME}", "tensorflow")
    assert versions_and_labels(folder) == ([1], {"stable": 1})


def test_batching_fits_the_client(folder):
    text = (folder / "serving" / "batching.config").read_text()
    parameters = text_format.Parse(text, batching_parameters())
    sizes = list(parameters.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == parameters.max_batch_size.value == MAX_BATCH
    assert parameters.num_batch_threads.value >= 1
    assert parameters.max_enqueued_batches.value >= 1
    assert not parameters.pad_variable_length_inputs  # nothing is of variable length but the batch


def test_monitoring(folder):
    text = (folder / "serving" / "monitoring.config").read_text()
    config = text_format.Parse(text, monitoring_config()).prometheus_config
    assert config.enable
    assert config.path == "/monitoring/prometheus/metrics"


def test_compose(folder):
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    (service,) = compose["services"].values()
    minor = ".".join(tf.__version__.split(".")[:2])
    assert service["image"].startswith(f"${{TF_SERVING_IMAGE:-tensorflow/serving:{minor}.")
    flags = dict(argument.removeprefix("--").split("=") for argument in service["command"])
    assert flags["enable_batching"] == flags["allow_version_labels_for_unavailable_models"] == "true"
    mounts = {mount["target"]: mount for mount in service["volumes"]}
    assert all(mount["read_only"] for mount in mounts.values())
    assert mounts[model_config(folder).base_path]["source"] == "./saved_model"
    for flag in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        inside = Path(flags[flag])
        mount = mounts[str(inside.parent)]
        assert (folder / mount["source"] / inside.name).is_file()
    assert [port.rsplit(":", 1)[1] for port in service["ports"]] == ["8500", "8501"]


def requests_of(folder):
    for record in tf.data.TFRecordDataset(str(folder / WARMUP)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        yield log.predict_log.request


def test_warmup_requests_are_answered(folder, exported, feature_model):
    """Replayed in the file's order, as the server does at its start."""
    sizes: dict[str, list[int]] = {}
    with (
        ModelServer(folder / "saved_model", NAME) as server,
        grpc.insecure_channel(server.grpc_address.split("/")[2]) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for request in requests_of(folder):
            (tensor,) = request.inputs.values()
            count = tensor.tensor_shape.dim[0].size
            sizes.setdefault(request.model_spec.signature_name, []).append(count)
            answer = stub.Predict(request, timeout=60)
            assert all(output.tensor_shape.dim[0].size == count for output in answer.outputs.values())
    every = [1, 2, 4, 8, 16, 32, 64]
    assert sizes == {"about": [1], "jpeg": every, "serving_default": every, "rotation_probabilities": [1]}
    assert sum(map(len, sizes.values())) <= 1000


def test_warmup_images_are_the_sample_images(folder, feature_model):
    prepare = feature_model.info.preprocessing.eval_image
    prepared = np.stack([prepare(tf.constant(sample)) for sample in SAMPLES])
    for request in requests_of(folder):
        if request.model_spec.signature_name == "serving_default":
            images = tf.make_ndarray(request.inputs["image"])
            np.testing.assert_allclose(images, prepared[np.arange(len(images)) % 3], atol=1e-6)


@pytest.fixture
def running(folder):
    """The test server as a process of its own, and its two addresses."""
    command = [sys.executable, "-m", "tests.serving.server", f"--saved_model={folder / 'saved_model'}"]
    command += [f"--name={NAME}", "--labels=stable:1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield process, [process.stdout.readline().strip() for _ in range(2)]
        process.kill()


def test_commands_of_the_readme_and_health_check(folder, running, tmp_path):
    """Run as they stand, but for the port."""
    process, (grpc_address, rest_address) = running
    (tmp_path / "photo.jpg").write_bytes(SAMPLES[0])

    def run(command):
        command = command.replace("127.0.0.1:8501", rest_address.split("/")[2])
        command = command.replace("127.0.0.1/8501", rest_address.split("/")[2].replace(":", "/"))
        command = command.replace("python -c", f"PYTHONPATH={ROOT} {sys.executable} -c")
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)

    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    start, shell, option, check = compose["services"]["serving"]["healthcheck"]["test"]
    assert (start, shell, option) == ("CMD", "bash", "-c")
    assert run(check).returncode == 0
    assert run(check.replace(NAME, "other")).returncode == 1

    lines = (folder / "README.md").read_text().splitlines()
    code = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    found = run(next(line for line in code if line.startswith("python")))
    assert "'features': array(" in found.stdout, found.stderr
    with ServingClient(f"{grpc_address}/labels/stable") as client:
        features = client.features_of_files([SAMPLES[0]])["features"][0]
    if shutil.which("curl") is not None:
        status = run(next(line for line in code if line.endswith(f"models/{NAME}")))
        assert json.loads(status.stdout)["model_version_status"][0]["state"] == "AVAILABLE"
        first = next(i for i, line in enumerate(code) if line.startswith("printf"))
        (prediction,) = json.loads(run("\n".join(code[first : first + 2])).stdout)["predictions"]
        np.testing.assert_allclose(prediction["features"], features, atol=1e-5)

    process.terminate()
    assert process.wait(30) == 0
    assert run(check).returncode == 1


def test_further_versions(folder, feature_model, tmp_path):
    out = shutil.copytree(folder, tmp_path / "export")
    for version in (2, 3, 4):
        shutil.copytree(out / "saved_model" / "1", out / "saved_model" / str(version))

    def write(version, **options):
        write_serving_files(out, feature_model.info, version, SAMPLES[:1], **options)
        return versions_and_labels(out)

    assert write(2) == ([1, 2], {"stable": 1, "canary": 2})
    assert write(3) == ([1, 3], {"stable": 1, "canary": 3})
    assert write(3) == ([1, 3], {"stable": 1, "canary": 3})
    assert write(1) == ([1, 3], {"stable": 1, "canary": 3})
    assert write(3, make_stable=True) == ([3], {"stable": 3})
    assert write(4) == ([3, 4], {"stable": 3, "canary": 4})
    staging = tmp_path / "staging"
    shutil.copytree(out / "saved_model" / "2", staging / "saved_model" / "5")
    write_serving_files(staging, feature_model.info, 5, SAMPLES[:1], published=out)
    assert versions_and_labels(staging) == ([3, 5], {"stable": 3, "canary": 5})
    assert versions_and_labels(out) == ([3, 4], {"stable": 3, "canary": 4})
    shutil.rmtree(out / "saved_model" / "3")
    assert write(4) == ([4], {"stable": 4})


def test_export_of_a_second_version(folder, feature_model, tmp_path):
    """As a server sees that has mounted the folders of the first."""
    out = shutil.copytree(folder, tmp_path / "export")
    (out / "parity.json").write_text(json.dumps({"format": 1, "model": NAME, "versions": {"1": {}}}))
    (out / "compose.yaml").write_text("# tuned\n")
    mounted = [out / "saved_model", out / "serving"]
    inodes = [path.stat().st_ino for path in mounted]
    options = ExportOptions(formats=("saved_model",), version=2, serving=True)
    export_model(feature_model, out, options, [("sample", SAMPLES[0])])
    assert versions_and_labels(out) == ([1, 2], {"stable": 1, "canary": 2})
    assert [path.stat().st_ino for path in mounted] == inodes
    assert (out / "saved_model" / "2" / WARMUP.relative_to("saved_model", "1")).is_file()
    assert (out / "compose.yaml").read_text() == "# tuned\n"


def test_other_settings_of_the_config_stay(folder, feature_model, tmp_path):
    out = shutil.copytree(folder, tmp_path / "export")
    path = out / "serving" / "models.config"
    other = 'config { name: "other" base_path: "/models/other" model_platform: "tensorflow" } } '
    path.write_text(path.read_text().rstrip().removesuffix("}") + other)
    write_serving_files(out, feature_model.info, 1, SAMPLES[:1])
    assert 'name: "other"' in path.read_text()
    shutil.rmtree(out / "saved_model" / "1" / "assets.extra")
    for text, message in (
        (path.read_text().replace(f'name: "{NAME}"', 'name: "elsewhere"'), "is about 'elsewhere', 'other'"),
        ("model_list {", "is not a configuration of TensorFlow Serving"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"models\.config.*{message}"):
            write_serving_files(out, feature_model.info, 1, SAMPLES[:1])
        assert path.read_text() == text
        assert not (out / WARMUP).exists()


@pytest.mark.parametrize(
    ("version", "samples", "message"),
    [
        (0, SAMPLES, "`version` must be at least 1"),
        (1, [], "`sample_images` is empty"),
        (1, [SAMPLES[0], b"no image"], "sample image 1: it is no JPEG"),
        (1, [animated_webp()], "sample image 0: it is an animated WebP"),
    ],
)
def test_bad_arguments(exported, feature_model, version, samples, message):
    with pytest.raises(ValueError, match=message):
        write_serving_files(exported, feature_model.info, version, samples)
    assert not (exported / "serving").exists()


def test_no_saved_model(tmp_path, feature_model):
    with pytest.raises(FileNotFoundError, match="1 holds no SavedModel"):
        write_serving_files(tmp_path, feature_model.info, 1, SAMPLES)
