"""Caffe networks with more layers than the zoo asks for: left out and named, where they change nothing."""

import json
import logging

import h5py
import numpy as np
import pytest

import zoo
from rfd_tf.cli.zoo import main
from rfd_tf.models import alexnet
from tests.zoo.released import NARROW, register_narrow
from tests.zoo.test_folding import randomize
from zoo.caffe import LayerBlobs, message_class, read_caffe, write_caffemodel

DENSE = LayerBlobs("InnerProduct", (np.ones((21, NARROW), "float32"), np.ones(21, "float32")))
STATISTICS = LayerBlobs("BatchNorm", tuple(np.ones(size, "float32") for size in (64, 64, 1)))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A released network's layers, and its Keras form."""
    path = tmp_path_factory.mktemp("caffe") / "a.caffemodel"
    model = randomize(alexnet(dense_width=NARROW, use_batch_norm=False))
    zoo.export_weights(model, path)
    return read_caffe(path), model


@pytest.fixture(autouse=True)
def voc():
    register_narrow("voc", "alexnet_no_bn", "caffemodel")


def connect(path, *extra, at_the_end=True):
    """A file of a chain of layers with ReLUs in place, and (name, bottom, top, LayerBlobs) besides."""
    layers, connected = extra[0], extra[1:]
    net = message_class("NetParameter")(name="n")
    bottom = "data"

    def add(name, bottom, top, layer=None):
        proto = net.layer.add(name=name, type=layer.kind if layer else "ReLU", bottom=[bottom], top=[top])
        for blob in layer.blobs if layer else ():
            message = proto.blobs.add()
            message.shape.dim.extend(blob.shape)
            message.data.extend(blob.ravel().tolist())

    def add_extras(after):
        for name, source, top, layer in connected:
            if source == after:
                add(name, source, top, layer)

    for name, layer in layers.items():
        add(name, bottom, name, layer)
        add_extras(name)
        add(f"{name}_relu", name, name)
        bottom = name
    path.write_bytes(net.SerializeToString())
    return path


def small(layers):
    """The chain without its large kernels, for what is refused before they matter."""
    return {name: LayerBlobs(layer.kind, (np.ones((1, 1), "float32"),)) for name, layer in layers.items()}


@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5"])
def test_a_classifier_is_left_out_and_named(network, tmp_path, caplog, capsys, ending):
    layers, model = network
    path = tmp_path / f"x.{ending}"
    more = {**layers, "fc8": DENSE, "rotation_fc": DENSE}
    if ending == "caffemodel":
        write_caffemodel(path, more, "net")
    else:
        with h5py.File(path, "w") as file:
            for name, layer in more.items():
                for index, blob in enumerate(layer.blobs):
                    file[f"data/{name}/{index}"] = blob
    with caplog.at_level(logging.INFO, "absl"):
        loaded = zoo.load("voc", from_file=path)
    assert f"{path}: left out: fc8, rotation_fc" in caplog.text
    for actual, wanted in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert main(["rfd zoo", "convert", "voc", f"--from_file={path}", f"--out={tmp_path / 'a.keras'}"]) == 0
    assert "left out: fc8, rotation_fc" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.keras.json").read_text())["left_out"] == ["fc8", "rotation_fc"]
    arguments = ["verify", "voc", f"--from_file={path}", f"--model={tmp_path / 'a.keras'}"]
    assert main(["rfd zoo", *arguments]) == 0
    backbone = alexnet(dense_width=NARROW, use_batch_norm=False)
    zoo.resolve_init(path, backbone)
    np.testing.assert_array_equal(backbone.get_weights()[0], model.get_weights()[0])


def test_branches_and_batch_norms_of_heads_are_left_out(network, tmp_path):
    """An auxiliary head in the middle, and a batch norm within it, of a form that is not read."""
    layers, _ = network
    odd = LayerBlobs("BatchNorm", (np.ones(21, "float32"),) * 5)
    head = ("aux", "conv3", "aux", DENSE), ("aux_bn", "aux", "aux", odd)
    kernels = {name: LayerBlobs(layer.kind, layer.blobs) for name, layer in layers.items()}
    narrow = {name: layer for name, layer in kernels.items() if name != "fc6"}
    path = connect(tmp_path / "x.caffemodel", narrow, *head)
    with pytest.raises(zoo.WeightError, match=r"The file lacks \(2\): fc6/0, fc6/1"):
        zoo.load("voc", from_file=path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("bn1", "conv1", "conv1", STATISTICS), "'conv2' is computed from 'bn1'"),
        (("conv1b", "conv1", "conv1", DENSE), "'conv2' is computed from 'conv1b'"),
        (("fc7_bn", "fc7", "fc7", STATISTICS), "'fc7_bn' changes values of fc7"),
    ],
)
def test_layers_that_matter_are_refused(network, tmp_path, extra, message):
    path = connect(tmp_path / "x.caffemodel", small(network[0]), extra)
    with pytest.raises(zoo.FormatError, match=rf"x\.caffemodel: its layer {message}"):
        zoo.load("voc", from_file=path)
    with pytest.raises(zoo.FormatError, match=rf"x\.caffemodel: its layer {message}"):
        zoo.resolve_init(path, alexnet(dense_width=NARROW, use_batch_norm=False))


def test_where_the_file_does_not_tell_the_connections_norms_are_refused(network, tmp_path):
    with h5py.File(tmp_path / "x.caffemodel.h5", "w") as file:
        for name, layer in {**small(network[0]), "bn1": STATISTICS}.items():
            for index, blob in enumerate(layer.blobs):
                file[f"data/{name}/{index}"] = blob
    with pytest.raises(zoo.FormatError, match=r"x\.caffemodel\.h5: its layer 'bn1' changes values, and"):
        zoo.load("voc", from_file=tmp_path / "x.caffemodel.h5")


def test_a_net_woven_to_swell(tmp_path):
    net = message_class("NetParameter")()
    for index in range(2000):
        layer = net.layer.add(name=f"l{index}", bottom=["all"], top=[f"b{index}"])
        layer.blobs.add().data.append(1.0)
    net.layer.add(name="join", bottom=[f"b{index}" for index in range(2000)], top=["all"])
    for index in range(2000):
        net.layer.add(name=f"again{index}", bottom=["all"], top=[f"again{index}"])
    (tmp_path / "x.caffemodel").write_bytes(net.SerializeToString())
    with pytest.raises(zoo.FormatError, match="connections"):
        read_caffe(tmp_path / "x.caffemodel")
