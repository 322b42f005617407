import contextlib

import h5py
import numpy as np
import pytest

import zoo
from rfd_tf.models import alexnet
from tests.zoo.caffe_nets import alexnet_prototxt, cifar10_quick, lenet
from tests.zoo.released import NARROW
from tests.zoo.test_folding import randomize
from zoo.caffe import LayerBlobs, blob_state, message_class, read_caffe, state_layers, write_caffemodel

KERNEL = np.arange(24, dtype="float32").reshape(2, 3, 2, 2)
BIAS = np.array([0.5, -0.5], "float32")
LAYERS = {"conv": LayerBlobs("Convolution", (KERNEL, BIAS))}


def opencv_output(prototxt: bytes, caffemodel: bytes, images: np.ndarray, blob: str) -> np.ndarray:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip(f"OpenCV {cv2.__version__} has no Caffe reader")
    network = cv2.dnn.readNetFromCaffe(*(np.frombuffer(data, "uint8") for data in (prototxt, caffemodel)))
    network.setInput(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    output = network.forward(blob)
    return output.transpose(0, 2, 3, 1) if output.ndim == 4 else output


@pytest.mark.parametrize(
    ("folder", "weights", "prototxt", "build"),
    [
        ("lenet_mnist", "lenet_iter_10000.caffemodel", "lenet.prototxt", lenet),
        ("cifar10_quick", "cifar10_quick_iter_4000.caffemodel", "cifar10_quick.prototxt", cifar10_quick),
        ("cifar10_quick", "cifar10_quick_iter_5000.caffemodel.h5", "cifar10_quick.prototxt", cifar10_quick),
    ],
)
def test_real_networks_run_as_in_opencv(test_data, tmp_path, folder, weights, prototxt, build):
    folder = test_data / "weights" / folder
    layers = read_caffe(folder / weights)
    model, weight_map = build()
    weight_map.load(blob_state(layers), model)
    images = np.random.default_rng(0).uniform(-1, 1, (4, *model.input_shape[1:])).astype("float32")
    actual = model(images).numpy()
    assert np.ptp(actual) > 0.05
    # OpenCV reads no HDF5, so it gets what our writer makes of it.
    rewritten = tmp_path / "x.caffemodel"
    kinds = {name: "Convolution" if name.startswith("conv") else "InnerProduct" for name in layers}
    write_caffemodel(rewritten, {name: LayerBlobs(kinds[name], layers[name].blobs) for name in layers}, "net")
    for file in {rewritten, folder / weights}:
        if file.suffix == ".caffemodel":
            expected = opencv_output((folder / prototxt).read_bytes(), file.read_bytes(), images, "prob")
            np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("fold", [False, True], ids=["batch norm and scale layers", "folded"])
def test_our_alexnet_runs_in_opencv(tmp_path, fold):
    model = randomize(alexnet((96, 96, 3), dense_width=NARROW))
    images = np.random.default_rng(0).standard_normal((2, 96, 96, 3)).astype("float32")
    expected = model(images, training=False)
    zoo.export_weights(zoo.fold_batch_norm(model) if fold else model, tmp_path / "x.caffemodel")
    prototxt = alexnet_prototxt(NARROW, 96, norm=not fold)
    for blob, feature in (("conv1", "conv1"), ("conv5", "conv5"), ("fc7", "fc_block")):
        actual = opencv_output(prototxt, (tmp_path / "x.caffemodel").read_bytes(), images, f"{blob}_relu")
        value = np.asarray(expected[feature])
        np.testing.assert_allclose(actual, value, rtol=0, atol=1e-4 * max(1, value.max()), err_msg=blob)


def test_cifar10_quick_classifies(test_data):
    """72 % and 75 %. Its training mean image is not among the files; the test images' own mean stands in."""
    arrays = np.load(test_data / "cifar10_lossless_test.npz")
    images = arrays["images"].astype("float32")
    model, weight_map = cifar10_quick()
    folder = test_data / "weights" / "cifar10_quick"
    for name in ("cifar10_quick_iter_4000.caffemodel", "cifar10_quick_iter_5000.caffemodel.h5"):
        weight_map.load(blob_state(read_caffe(folder / name)), model)
        predicted = model.predict(images - images.mean(0), verbose=0).argmax(-1)
        assert (predicted == arrays["labels"]).mean() > 0.7


def net(**fields):
    return message_class("NetParameter")(name="n", **fields)


def write(path, message) -> str:
    path.write_bytes(message.SerializeToString())
    return path


def add_blob(layer, array, *, legacy=None, double=False):
    blob = layer.blobs.add()
    (blob.double_data if double else blob.data).extend(array.ravel().tolist())
    if legacy:
        blob.num, blob.channels, blob.height, blob.width = legacy
    else:
        blob.shape.dim.extend(array.shape)
    return blob


def test_v1_layers_with_legacy_shapes(tmp_path):
    message = net()
    layer = message.layers.add(name="conv", type=4, bottom=["data"], top=["conv"])
    add_blob(layer, KERNEL, legacy=KERNEL.shape)
    add_blob(layer, BIAS, legacy=(1, 1, 1, 2))
    dense = message.layers.add(name="ip", type=14)
    add_blob(dense, KERNEL, legacy=(1, 1, 2, 12))
    read = read_caffe(write(tmp_path / "x.caffemodel", message))
    assert {name: layer.kind for name, layer in read.items()} == {"conv": "Convolution", "ip": "InnerProduct"}
    np.testing.assert_array_equal(read["conv"].blobs[0], KERNEL, strict=True)
    np.testing.assert_array_equal(read["conv"].blobs[1], BIAS, strict=True)
    np.testing.assert_array_equal(read["ip"].blobs[0], KERNEL.reshape(2, 12), strict=True)


def test_unpacked_and_double_numbers(tmp_path):
    unpacked = b"".join(b"\x2d" + value.tobytes() for value in BIAS)  # field 5, four bytes each
    blob = unpacked + b"\x3a\x02\x08\x02"  # shape { dim: 2 }, unpacked as well
    layer = b"\x0a\x01a\x12\x05Scale" + b"\x3a" + bytes([len(blob)]) + blob
    (tmp_path / "x.caffemodel").write_bytes(b"\xa2\x06" + bytes([len(layer)]) + layer)
    read = read_caffe(tmp_path / "x.caffemodel")
    np.testing.assert_array_equal(read["a"].blobs[0], BIAS, strict=True)
    message = net()
    add_blob(message.layer.add(name="d", type="Scale"), BIAS.astype("float64"), double=True)
    read = read_caffe(write(tmp_path / "x.caffemodel", message))
    np.testing.assert_array_equal(read["d"].blobs[0], BIAS.astype("float64"), strict=True)


def test_write_then_read_is_bit_exact(tmp_path):
    state = {"conv/0": KERNEL, "conv/1": BIAS, "conv_bn/0": BIAS, "conv_bn/1": BIAS + 1}
    state |= {"conv_scale/0": BIAS, "conv_scale/1": BIAS, "fc/0": np.eye(3, dtype="float32") / 3}
    layers = state_layers(state)
    assert [layer.kind for layer in layers.values()] == ["Convolution", "BatchNorm", "Scale", "InnerProduct"]
    write_caffemodel(tmp_path / "x.caffemodel", layers, "net")
    read = blob_state(read_caffe(tmp_path / "x.caffemodel"))
    assert list(read) == list(state)
    for key, array in state.items():
        np.testing.assert_array_equal(read[key], array, strict=True)


def test_batch_norm_scale_factor():
    layers = {"a_bn": LayerBlobs("BatchNorm", (BIAS, BIAS, np.array([2.0], "float32")))}
    np.testing.assert_array_equal(blob_state(layers)["a_bn/0"], BIAS / 2)
    layers = {"a_bn": LayerBlobs("BatchNorm", (BIAS, BIAS, np.zeros(1, "float32")))}
    np.testing.assert_array_equal(blob_state(layers)["a_bn/0"], [0, 0])
    with pytest.raises(zoo.FormatError, match="has 2 blobs"):
        blob_state({"a": LayerBlobs("BatchNorm", (BIAS, BIAS))})


def lying_shape(dims):
    message = net()
    blob = add_blob(message.layer.add(name="conv", type="Convolution"), BIAS)
    blob.shape.dim[:] = dims
    return message


def doubled():
    message = net()
    for _ in range(2):
        add_blob(message.layer.add(name="conv", type="Convolution"), BIAS)
    return message


def oldest():
    message = net()
    message.layers.add(layer=b"x")
    return message


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (lying_shape([2**40, 2**20]), "its blob 'conv/0' has 2 numbers, which its shape"),
        (lying_shape([-1, -2]), "contradicts"),
        (lying_shape([3]), "contradicts"),
        (doubled(), "two layers with weights named 'conv'"),
        (oldest(), "oldest form"),
        (net(), "no layer with blobs"),
    ],
)
def test_hostile_networks(tmp_path, message, problem):
    with pytest.raises(zoo.FormatError, match=problem):
        read_caffe(write(tmp_path / "x.caffemodel", message))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "has 0 bytes"),
        (b"\xa2\x06\xff\xff\xff\xff\xff\x7f", "announces 4398046511103 bytes"),
        (b"\x0a" + b"\xff" * 12, "more than 10 bytes"),
        (b"\x0b\x0c", "wire type 3"),
        (b"\xa2\x06\x00" * 300_000, "more fields than any network"),
        (b"<html>over quota</html>", "is no Caffe network"),
    ],
)
def test_hostile_bytes(tmp_path, content, problem):
    (tmp_path / "x.caffemodel").write_bytes(content)
    with pytest.raises(zoo.FormatError, match=rf"x\.caffemodel: .*{problem}"):
        read_caffe(tmp_path / "x.caffemodel")


def test_damage_anywhere_never_escapes(tmp_path):
    """One byte changed: either still a network, or a FormatError; never another exception."""
    path = tmp_path / "x.caffemodel"
    write_caffemodel(path, LAYERS, "net")
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for position in np.repeat(np.arange(len(data)), 4):
        path.write_bytes(data[:position] + rng.bytes(1) + data[position + 1 :])
        with contextlib.suppress(zoo.FormatError):
            blob_state(read_caffe(path))


@pytest.mark.parametrize("ending", [".caffemodel", ".caffemodel.h5"])
def test_truncation_anywhere(tmp_path, ending):
    whole, cut = tmp_path / f"whole{ending}", tmp_path / f"cut{ending}"
    write_caffemodel(whole, LAYERS, "net")
    if ending.endswith("h5"):
        write_hdf5(whole)
    data = whole.read_bytes()
    step = max(1, len(data) // 200)
    for length in range(0, len(data) - 1, step):
        cut.write_bytes(data[:length])
        with pytest.raises(zoo.FormatError, match=r"cut\.caffemodel"):
            read_caffe(cut)


def write_hdf5(path, **options):
    with h5py.File(path, "w") as file:
        for index, blob in enumerate((KERNEL, BIAS)):
            file.create_dataset(f"data/conv/{index}", data=blob, **options)
        file.create_group("data/relu")


def test_hdf5(tmp_path):
    write_hdf5(tmp_path / "x.caffemodel.h5")
    read = read_caffe(tmp_path / "x.caffemodel.h5")
    assert list(read) == ["conv"]
    np.testing.assert_array_equal(read["conv"].blobs[0], KERNEL, strict=True)


def external_link(file):
    file["data/conv/0"] = h5py.ExternalLink("/etc/hostname", "/")


def soft_link(file):
    file["data/conv/0"] = h5py.SoftLink("/data/conv/1")


def external_storage(file):
    file.create_dataset("data/conv/0", (4,), "f4", external=[("/etc/hostname", 0, 16)])


def huge(file):
    file.create_dataset("data/conv/0", (2**40, 2**10), "f4")


def compressed(file):
    file.create_dataset("data/conv/0", (2**20, 2**10), "f4", compression="gzip", fillvalue=1)


@pytest.mark.parametrize(
    ("fill", "problem"),
    [
        (external_link, "ExternalLink"),
        (soft_link, "SoftLink"),
        (external_storage, "not plainly stored"),
        (huge, "announces .* but stores less"),
        (compressed, "not plainly stored"),
        (lambda file: file.create_dataset("data/conv/0", data=[1, 2]), "of type int64"),
        (lambda file: file.create_dataset("data/conv/0", data=h5py.Empty("f4")), "stores less"),
        (lambda file: file.create_dataset("data/conv/1", data=BIAS), "has no /data/conv/0"),
        (lambda file: file.create_dataset("data/conv", data=BIAS), "is a Dataset, expected a Group"),
        (lambda file: file.create_group("data/relu"), "no data/LAYER/0"),
        (lambda file: file.create_group("other"), "has no /data"),
    ],
)
def test_hostile_hdf5(tmp_path, fill, problem):
    path = tmp_path / "x.caffemodel.h5"
    with h5py.File(path, "w") as file:
        fill(file)
    with pytest.raises(zoo.FormatError, match=problem):
        read_caffe(path)
