"""The client, and the feature model over it, against servers that run an exported SavedModel."""

import math
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf.features import open_feature_model
from rfd_tf.serving import BadInputError, ServingClient, ServingError
from tests.data.images import animated_webp, encoded, random_image
from tests.serving import mean_model
from tests.serving.mean_model import write_means
from tests.serving.server import ModelServer


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(5, 16, 16, 3)).astype("float32")


def assert_same(found, expected, names, atol=1e-5):
    assert list(found) == list(names)
    for name in names:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], atol=atol, err_msg=name)


def test_features_equal_the_keras_model(address, feature_model, images):
    expected = feature_model(images)
    with ServingClient(address) as client:
        assert_same(client.features(images), expected, feature_model.info.outputs)
        assert_same(client.features(images, ["invariant", "block1"]), expected, ["invariant", "block1"])
        found = client.rotation_probabilities(images)
        np.testing.assert_allclose(found, expected["rotation_probabilities"], atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
        assert client.status() == {1: "AVAILABLE"}
        assert client.ready()


def test_feature_model_is_as_any_other(address, feature_model, images):
    with open_feature_model(address, ["block1"], max_batch=3) as served:
        assert served.info == feature_model.info
        assert served.location == address
        assert_same(served(images), feature_model(images), feature_model.info.outputs)
        with pytest.raises(ValueError, match="no output 'nothing'"):
            served(images, ["nothing"])
    with pytest.raises(ValueError, match=r"no feature map 'nothing'; it has: block1"):
        open_feature_model(address, ["nothing"])


def test_big_batches_go_in_pieces(address, server, feature_model, images):
    numbers = sum(math.prod(shape) for shape in feature_model.info.outputs.values())  # REST gives them all
    per_image = 16 * 16 * 3 * 4 if address.startswith("grpc") else 18 * numbers
    for options, requests in (({"max_batch": 2}, 3), ({"max_message_bytes": 4096 + 4 * per_image}, 2)):
        with ServingClient(address, **options) as client:
            client.about()
            before = server.requests
            assert_same(client.features(images, ["features"]), feature_model(images), ["features"])
            assert server.requests - before == requests
    with (
        ServingClient(address, max_message_bytes=4096 + per_image - 1) as client,
        pytest.raises(BadInputError, match=r"image 0 of the batch takes about \d+ bytes.*max_message_bytes"),
    ):
        client.features(images, ["features"])


def test_model_of_pixels(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (3, 4, 4, 3), dtype="uint8")
    expected = {"features": pixels.mean(axis=(1, 2))}
    with ModelServer(write_means(tmp_path, dtype=tf.uint8), mean_model.NAME) as server:
        for address in (server.grpc_address, server.rest_address):
            with ServingClient(address) as client, open_feature_model(address) as served:
                assert_same(client.features(pixels), expected, ["features"])
                assert_same(served(served.info.normalize(pixels)), expected, ["features"])
                with pytest.raises(BadInputError, match="must be uint8"):
                    client.features(pixels.astype("float32"))


def expected_of_files(feature_model, contents):
    prepare = feature_model.info.preprocessing.eval_image
    return feature_model(np.stack([prepare(tf.constant(content)) for content in contents]))


def test_files(address, server, feature_model, tmp_path):
    contents = [
        encoded(random_image(40, 50)),
        encoded(random_image(60, 30).convert("L")),
        encoded(random_image(60, 30).convert("CMYK")),
        encoded(random_image(20, 70), progressive=True),
        encoded(random_image(33, 33).convert("RGBA"), "PNG"),
        encoded(random_image(17, 19).convert("P"), "PNG"),
        encoded(random_image(21, 20), "BMP"),
        encoded(
            random_image(30, 40), "MPO", save_all=True, append_images=[random_image(30, 40, 1)]
        ),  # of some phones
    ]
    (tmp_path / "first.jpg").write_bytes(contents[0])
    files = [tmp_path / "first.jpg", *contents[1:]]
    expected = expected_of_files(feature_model, contents)
    with ServingClient(address, max_batch=4) as client:
        client.about()
        before = server.requests
        assert_same(client.features_of_files(files), expected, feature_model.info.outputs)
        assert server.requests - before == 2


def test_real_photographs(server, feature_model, test_data):
    paths = sorted((test_data / "VOCdevkit").rglob("JPEGImages/*.jpg"))[:50]
    assert paths, "no photographs in VOCdevkit"
    contents = [path.read_bytes() for path in paths]
    contents[1::10] = [encoded(Image.open(path).convert("L")) for path in paths[1::10]]
    expected = expected_of_files(feature_model, contents)
    with ServingClient(server.grpc_address) as client:
        assert_same(client.features_of_files(contents), expected, feature_model.info.outputs, atol=1e-3)


def bad_files():
    jpeg, png = encoded(random_image(40, 50)), encoded(random_image(40, 50), "PNG")
    return [
        ("text.jpg", b"no image", "is no JPEG, PNG, BMP or WebP image"),
        ("empty.jpg", b"", "is empty"),
        ("gif.gif", encoded(random_image(8, 8).convert("P"), "GIF"), "is no JPEG"),
        ("cut.jpg", jpeg[: len(jpeg) // 2], "damaged or cut short"),
        ("end.jpg", jpeg[:-2], "damaged or cut short"),
        ("head.jpg", jpeg[:30], "header cannot be read"),
        ("cut.png", png[: len(png) // 2], "damaged or cut short"),
        ("end.png", png[:-12], "damaged or cut short"),
        ("film.webp", animated_webp(), "it is an animated WebP"),
        ("huge.png", encoded(Image.new("1", (10_000, 10_000)), "PNG"), "10000x10000 pixels, more than"),
        ("thread.png", encoded(Image.new("L", (4000, 2)), "PNG"), "a side more than 100 times"),
        ("bytes.jpg", jpeg + bytes(100_000), "bytes, more than 100000"),
        ("nowhere.jpg", None, "No such file"),
    ]


@pytest.mark.parametrize(("name", "content", "message"), bad_files(), ids=lambda value: str(value)[:12])
def test_bad_files_are_not_sent(server, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    good = encoded(random_image(40, 50))
    with ServingClient(server.rest_address, max_image_bytes=100_000) as client:
        client.about()
        before = server.requests
        with pytest.raises(BadInputError, match=rf"{name}.*({message})"):
            client.features_of_files([good, tmp_path / name])
        if content is not None:
            with pytest.raises(BadInputError, match=rf"image 1 of the batch.*({message})"):
                client.features_of_files([good, content])
        assert server.requests == before


ONE = np.zeros((1, 16, 16, 3), "float32")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda client: client.features(ONE[:0]), "`images` is an empty batch"),
        (lambda client: client.features(ONE[0]), r"shape \[B, 16, 16, 3\]. Received \(16, 16, 3\)"),
        (lambda client: client.features(ONE[:, :15]), r"Received \(1, 15, 16, 3\)"),
        (lambda client: client.features(ONE.astype("uint8")), "Received dtype uint8"),
        (lambda client: client.features(ONE.astype(str)), "Received dtype <U"),
        (lambda client: client.features(np.concatenate([ONE, ONE + np.nan])), "finite: image 1 of"),
        (lambda client: client.features(np.full((1, 16, 16, 3), 1e300)), "finite: image 0 of"),
        (lambda client: client.features(ONE, ["fearures"]), "has no output 'fearures'; it has features"),
        (lambda client: client.features(ONE, []), "`names` is empty"),
        (lambda client: client.features_of_files([]), "`files` is an empty batch"),
        (lambda client: client.features_of_files("a.jpg"), "`files` must be a list"),
        (lambda client: client.features_of_files([7]), "image 0 of the batch must be a path or bytes"),
    ],
)
def test_bad_input_is_not_sent(server, ask, message):
    with ServingClient(server.grpc_address) as client:
        client.about()
        before = server.requests
        with pytest.raises(BadInputError, match=message):
            ask(client)
        assert server.requests == before


def test_refused_by_the_server_in_its_own_words(address):
    """What the client would not send: the exported model tells which images it cannot take."""
    with ServingClient(address) as client:
        client.about()
        files = [encoded(random_image()), b"no image"]
        with pytest.raises(ServingError, match=r"refused the request: image 1: neither JPEG.*WebP$"):
            client._ask(lambda seconds: client._open.predict("jpeg", "encoded", files, [], seconds), None)


@pytest.mark.skipif(
    "RFD_TF_SERVING_ADDRESS" not in os.environ,
    reason="no real server: set RFD_TF_SERVING_ADDRESS to the address of an exported model",
)
def test_real_server():
    """Any exported model: files by `jpeg` and the same ones prepared here must give the same features."""
    contents = [encoded(random_image(300, 400, seed)) for seed in range(3)]
    with open_feature_model(os.environ["RFD_TF_SERVING_ADDRESS"]) as served:
        assert served.client.ready()
        prepare = served.info.preprocessing.eval_image
        images = np.stack([prepare(tf.constant(content)) for content in contents])
        features = served(images)
        assert_same(served(images, ["features"]), features, ["features"], atol=1e-4)
        names = ["features"]
        tolerance = 0.05 if served.info.input == "uint8" else 1e-3
        assert_same(served.client.features_of_files(contents, names), features, names, atol=tolerance)
        if "rotation_probabilities" in features:
            sums = features["rotation_probabilities"].sum(axis=1)
            np.testing.assert_allclose(sums, 1, atol=1e-4)
        with pytest.raises(ServingError, match="refused"):
            served.client._open.predict("jpeg", "encoded", [b"no image"], names, 30)
