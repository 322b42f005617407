"""From an entry, a file or an `init` to a Keras network: loaded, given heads, converted, verified."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import keras
from absl import logging

from rfd_tf.features.feature_model import ModelInfo
from rfd_tf.features.keras_feature_model import INFO_MEMBER
from rfd_tf.files import atomic_path
from rfd_tf.models import select_features
from rfd_tf.models.folding import fold_batch_norm
from rfd_tf.models.keras_file import facts_inside
from rfd_tf.models.parity import TOLERANCE, compare, outputs, random_images
from zoo.architectures import architecture, architecture_of, choose_heads, has_heads, read_heads
from zoo.caffe import state_layers, write_caffemodel
from zoo.downloader import download, sha256_of
from zoo.errors import FormatError, VerificationError, WeightError, ZooError
from zoo.registry import Entry, info, preprocessing
from zoo.sources import KIND_NAMES, kind_of, kind_of_file, kind_to_write, read_keras, read_source
from zoo.torch_checkpoint import write_checkpoint
from zoo.verification import Report, recorded_counters, verify

PREFIX = "zoo:"


def load(
    name: str,
    *,
    from_file: str | Path | None = None,
    heads: bool | str = False,
    heads_from: str | Path | Sequence[str | Path] = (),
    feature_names: Sequence[str] | None = None,
    tolerance: float = TOLERANCE,
) -> keras.Model:
    """The network of an entry, with its released weights, verified.

    Args:
        name: of the entry.
        from_file: the released file, or the same weights in another PyTorch or Caffe file, where you have
            it; else it comes from the cache or the network.
        heads: True to output what the checkpoint's heads make of the features as well: `rotation_logits`
            [B, 4] and `embedding` [B, 128], or `logits` [B, classes] of a CIFAR ResNet; "auto" for those
            heads that are there.
        heads_from: PyTorch files of heads, one or several: RFD's code writes the rotation classifier
            (`fc_classifier.0.*`) and the projection (`norm.0.*`) into files of their own. They go before
            those of the checkpoint, and are output without asking for `heads`.
        feature_names: the outputs; by default all.
        tolerance: how far the network may be from an independent forward pass of its source: absolute up to
            values of 1, relative to the feature's largest value beyond.

    Returns:
        A functional model from images [B, H, W, 3] to a dict of features. The images are to be prepared as
        `zoo.info(name).preprocessing` does it.

    Raises:
        ZooError: if there is no such entry, it cannot be had, its file is not what it says, or a head that
            was asked for is missing.

    Example:
        >>> backbone = zoo.load("rfd_alexnet_imagenet", feature_names=["conv5"])
        >>> network = zoo.load("rfd_alexnet_imagenet", heads_from=["rotation.pth.tar", "projection.pth.tar"])
    """
    entry = info(name)
    if entry.bundled and not from_file:
        if heads is True or heads_from:
            raise ZooError(f"{name} has the heads that it has: leave out `heads` and `heads_from`")
        model = read_keras(entry.bundled)
        return select_features(model, feature_names) if feature_names else model
    if not entry.architecture:
        load_file(entry, "")  # refuses
    path = Path(from_file) if from_file else download(name)
    model, _ = load_file(entry, path, heads=heads, heads_from=heads_from, tolerance=tolerance)
    return select_features(model, feature_names) if feature_names else model


@keras.saving.register_keras_serializable(package="rfd_tf")
class ImageClassifier(keras.Model):
    """A network of the zoo that tells classes of images as they are: `ImageClassifier.from_preset(NAME)`.

    A functional model from RGB images [B, H, W, 3] in 0..255, prepared as `preprocessing` does, to scores
    [B, C]: the network's logits or cosines, the largest of which is the class's. `predict`, `compile`, `fit`
    and `save` are Keras's.

    Attributes:
        class_names: of the C scores; () where the entry does not tell.
    """

    class_names: tuple[str, ...] = ()

    @classmethod
    def from_preset(cls, name: str, **options) -> "ImageClassifier":
        """The classifier of an entry.

        Args:
            name: of the entry, one with an output `logits`.
            **options: of `load`, such as `from_file`.

        Raises:
            ZooError: as of `load`, and if the entry has no classifier.

        Example:
            >>> classifier = zoo.ImageClassifier.from_preset("ldam_drw_resnet14_cifar10_lt")
            >>> classifier.class_names[classifier.predict(images).argmax(axis=1)[0]]
        """
        entry = info(name)
        network = load(name, heads=False if entry.bundled else "auto", **options)
        if "logits" not in network.output:
            raise ZooError(f"{name} has no classifier: its outputs are {', '.join(network.output)}")
        prepared = preprocessing(name)
        model = cls(prepared.input, network(prepared.output)["logits"], name=name)
        if entry.bundled and (facts := facts_inside(entry.bundled, INFO_MEMBER)):
            model.class_names = ModelInfo.from_json(facts, name).class_names
        return model

    def get_config(self):
        return {**super().get_config(), "class_names": list(self.class_names)}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        class_names = config.pop("class_names")
        model = super().from_config(config, custom_objects)
        model.class_names = tuple(class_names)
        return model


def convert(
    name: str,
    from_file: str | Path,
    out: str | Path,
    *,
    heads: bool | str = False,
    heads_from: str | Path | Sequence[str | Path] = (),
    fold: bool = False,
    tolerance: float = TOLERANCE,
) -> Report:
    """Convert an entry's file, and write the result with its report `OUT.json` beside it.

    Args:
        name: of the entry, which says what network the file holds.
        from_file: the released file, or the same network in any other file that can be read: PyTorch, Caffe,
            or a `.keras` file of an earlier conversion. Its content tells, else its ending.
        out: ends in `.keras`, `.pth` (needs PyTorch) or `.caffemodel`.
        heads, heads_from, tolerance: as of `zoo.load`.
        fold: whether to fold the batch norms into the layers before them.

    Raises:
        ZooError: if there is no such entry, the file is not what it says, or the result is not equal; nothing
            is written then.
    """
    out_kind = kind_to_write(out)
    entry = info(name)
    report = None
    if entry.bundled is None and entry.architecture and kind_of_file(from_file, entry.source) == "keras":
        model = _read_converted(entry, from_file)
        counters: Mapping[str, int] = recorded_counters(from_file)
        if heads_from:
            raise ZooError(f"{from_file}: `heads_from` goes with a checkpoint; convert that itself")
        if heads is True and not has_heads(model):
            raise ZooError(f"{from_file}: was converted without its heads; convert the checkpoint itself")
    else:
        model, report = load_file(entry, from_file, heads=heads, heads_from=heads_from, tolerance=tolerance)
        counters = report.counters
    if report is not None and out_kind == "keras" and not fold:
        with atomic_path(out) as temporary:
            model.save(temporary)
    else:
        if fold:
            model, counters = fold_batch_norm(model), {}
        written = export_weights(
            model, out, source=from_file, entry=name, counters=counters, tolerance=tolerance
        )
        kept = ("left_out", "unread", "heads", "heads_from") if report is not None else ()
        report = replace(written, **{field: getattr(report, field) for field in kept})
    report.write_beside(out)
    return report


def export_weights(
    model: keras.Model,
    out: str | Path,
    *,
    source: str | Path | None = None,
    entry: str | None = None,
    counters: Mapping[str, int] | None = None,
    tolerance: float = TOLERANCE,
) -> Report:
    """Write a network as `.keras`, `.pth` (zip format) or `.caffemodel`, and its report `OUT.json` beside it.

    The file is read back and compared with the network before it appears under its name.

    Args:
        model: an AlexNet or CIFAR ResNet of ours, with or without its heads.
        out: ends in one of those.
        source: the file that the network came from, for the report.
        entry: the zoo entry that it came from, for the report.
        counters: values for PyTorch's `num_batches_tracked`; zero where not given.
        tolerance: how far the file's network may be from `model`, as of `zoo.load`.

    Raises:
        ZooError: if the network has no such form, or the file is not equal to it; nothing is written then.
    """
    kind = kind_to_write(out)
    built = architecture_of(model)
    out = Path(out)
    with atomic_path(out) as temporary:
        if kind == "keras":
            model.save(temporary)
            images = random_images(model)
            differences = compare(
                outputs(read_keras(temporary), images), outputs(model, images), tolerance, VerificationError
            )
            compared_with = "the network before it was saved"
        else:
            state = built.weight_map(kind, model).state(model, counters)
            if kind == "torch":
                write_checkpoint(temporary, state)
            else:
                write_caffemodel(temporary, state_layers(state), temporary.name.partition(".")[0])
            state, _ = read_source(temporary, kind).arrays()
            differences, compared_with = verify(model, built.name, kind, state, tolerance)
        report = Report(
            architecture=built.name,
            source_file=Path(source or out).name,
            source_sha256=sha256_of(source or temporary),
            compared_with=compared_with,
            tolerance=tolerance,
            differences=differences,
            entry=entry,
            counters=counters or {},
        )
    report.write_beside(out)
    return report


def verify_file(
    entry: Entry,
    path: str | Path,
    model_path: str | Path,
    tolerance: float = TOLERANCE,
    heads_from: str | Path | Sequence[str | Path] = (),
) -> Report:
    """Compare a converted `.keras` file with its source again, and its heads with the files they came from.

    Raises:
        ZooError: if a file cannot be read, or they differ.
    """
    converted = _read_converted(entry, model_path)
    _, report = load_file(entry, path, heads_from=heads_from, tolerance=tolerance, converted=converted)
    return report


def load_file(
    entry: Entry,
    path: str | Path,
    *,
    heads: bool | str = False,
    heads_from: str | Path | Sequence[str | Path] = (),
    tolerance: float = TOLERANCE,
    converted: keras.Model | None = None,
) -> tuple[keras.Model, Report]:
    """The network of an entry from its file, and the report of its verification.

    What was left out, or not read, is in the report and in the log.

    Args:
        entry: says what network the file holds.
        path: of the file.
        heads, heads_from, tolerance: as of `zoo.load`.
        converted: an earlier conversion to be verified, in place of a network to be made from the file.

    Raises:
        ZooError: as `convert`.
    """
    if heads not in (True, False, "auto"):
        raise ZooError(f"`heads` must be True, False or 'auto'. Received: heads={heads!r}")
    files = (heads_from,) if isinstance(heads_from, str | Path) else tuple(heads_from)
    if entry.bundled:
        raise ZooError(f"{entry.name} is a Keras file as it is: zoo.download({entry.name!r}) gives its path")
    if entry.architecture is None:
        raise ZooError(f"{entry.name} is data and no network: zoo.download({entry.name!r}) gives its path")
    built = architecture(entry.architecture)
    if (heads is True or files) and not built.heads:
        raise ZooError(f"{built.name} has no heads: leave out `heads` and `heads_from`")
    head_state, left_in_heads = read_heads(files, built.heads)
    with _source_of(entry, path) as kind:
        source = read_source(path, kind)
        given = {**source.state, **head_state}
        chosen = choose_heads(built.heads, "auto" if files and not heads else heads, given)
        model = converted if converted is not None else built.model(dict(entry.options), chosen, given)
        weight_map = built.weight_map(kind, model)
        state, spare = source.arrays(rule.source for rule in weight_map.rules)
        state |= head_state
        if converted is None:
            weight_map.load(state, model)
        else:
            weight_map.check(state, model)
        differences, compared_with = verify(model, built.name, kind, state, tolerance)
        counters = weight_map.counts(state)
    report = Report(
        architecture=built.name,
        source_file=Path(path).name,
        source_sha256=sha256_of(path),
        compared_with=compared_with,
        tolerance=tolerance,
        differences=differences,
        entry=entry.name,
        left_out=(*(key for key in weight_map.left_out if key in state), *spare, *left_in_heads),
        unread=source.unread,
        heads=chosen,
        heads_from={Path(file).name: sha256_of(file) for file in files},
        counters=counters,
    )
    if converted is not None:  # what the network lacks was told when it was converted
        return model, replace(report, left_out=(), unread=())
    if lacking := [name for name in built.heads if heads == "auto" and name not in chosen]:
        logging.info("%s holds no heads for %s: the network goes on without them", path, ", ".join(lacking))
    _log(path, report.left_out, report.unread)
    return model, report


def _log(path: str | Path, left_out: Sequence[str], unread: Sequence[str]) -> None:
    for what, names in (("left out", left_out), ("not read", unread)):
        if names:
            logging.info("%s: %s: %s", path, what, ", ".join(names))


@contextmanager
def _source_of(entry: Entry, path: str | Path) -> Iterator[str]:
    """What arrays the file has: `torch` or `caffe`. Errors within name the file, and what was expected."""
    source = kind_of_file(path, entry.source)
    expected = f"{entry.name} is released as {KIND_NAMES[entry.source]}"
    if source == "keras":
        raise FormatError(f"{path}: is {KIND_NAMES[source]} and holds no source to verify; {expected}")
    try:
        yield source
    except ZooError as error:
        problem = str(error).removeprefix(f"{path}: ")
        if source != entry.source:
            problem = f"was read as {KIND_NAMES[source]}, but {expected}: {problem}"
        raise type(error)(f"{path}: {problem}") from error


def _read_converted(entry: Entry, path: str | Path) -> keras.Model:
    model = read_keras(path)
    if (found := architecture_of(model).name) != entry.architecture:
        raise ZooError(f"{path}: holds {found}, but {entry.name} is {entry.architecture}")
    return model


def resolve_init(spec: str | Path, backbone: keras.Model) -> None:
    """Set all weights of `backbone` from a zoo entry or a file; nothing is set unless everything fits.

    Of a network with the feature `fc_block` on its pool, whose dense layers no published file holds, those
    stay as initialised where the source lacks them; the log names their variables.

    Args:
        spec: `zoo:NAME`, or the path of a `.keras`, `.pth`, `.pth.tar`, `.pt`, `.th`, `.caffemodel` or
            `.caffemodel.h5` file. A `.keras` file may also hold a model with an attribute `backbone`.
        backbone: an AlexNet or CIFAR ResNet of ours; from `.keras` files any functional model, whose
            layers may bear other numbers (`conv2d_3` for `conv2d`).

    Raises:
        ZooError: if it cannot be had or read, or a name or shape does not fit.

    Example:
        >>> zoo.resolve_init("zoo:rfd_alexnet_imagenet", backbone)
    """
    if str(spec).startswith(PREFIX):
        _copy(_without_heads(load(str(spec).removeprefix(PREFIX))), backbone, str(spec))
    elif (kind := kind_of(spec)) == "keras":
        model = read_keras(spec)
        _copy(getattr(model, "backbone", model), backbone, str(spec))
    else:
        published = _published_part(backbone)
        weight_map = architecture_of(backbone).weight_map(kind, published)
        source = read_source(spec, kind)
        try:
            state, spare = source.arrays(rule.source for rule in weight_map.rules)
            weight_map.load(state, published)
        except ZooError as error:
            raise type(error)(f"{spec}: {error}") from error
        left_out = [*(key for key in weight_map.left_out if key in state), *spare]
        _log(spec, left_out, source.unread)
        _log_fresh(str(spec), backbone, _variables(published))


def _without_heads(model: keras.Model) -> keras.Model:
    """A network up to its features."""
    beyond = ("rotation_probabilities", "embedding", "logits")
    if not set(beyond) & set(model.output):
        return model
    return select_features(model, [name for name in model.output if name not in beyond])


def _copy(source: keras.Model, target: keras.Model, name: str) -> None:
    values, variables = _variables(source), _variables(target)
    published = _variables(_published_part(target))
    for part in (published, variables):
        if values.keys() == part.keys():
            variables = part
            break
        if _signature(values) == _signature(part):
            # Keras numbers the layers that a library did not name, anew in every process.
            variables, values = part, dict(zip(part, values.values(), strict=True))
            break
    if values.keys() != variables.keys():
        missing = sorted(variables.keys() - values.keys())[:4]
        extra = sorted(values.keys() - variables.keys())[:4]
        raise WeightError(
            f"{name} does not fit the network {target.name!r}: it lacks {missing}, it has besides {extra}"
        )
    for path, variable in variables.items():
        if values[path].shape != variable.shape:
            raise WeightError(
                f"{name}: {path!r} has shape {values[path].shape}, the network needs {variable.shape}"
            )
    for path, variable in variables.items():
        variable.assign(values[path])
    _log_fresh(name, target, variables)


def _signature(variables: dict) -> list:
    """Names without the numbers in them, and shapes, in order."""
    return [(re.sub(r"_\d+", "", path), tuple(variable.shape)) for path, variable in variables.items()]


def _variables(model: keras.Model) -> dict:
    return {variable.path: variable for variable in model.weights}


def _published_part(backbone: keras.Model) -> keras.Model:
    """Of a network with a dense block on its `pool` the layers up to there; any other network as it is."""
    names = {layer.name for layer in backbone.layers}
    if not {"pool", "fc6"} <= names:
        return backbone
    return keras.Model(backbone.inputs[0], backbone.get_layer("pool").output, name=backbone.name)


def _log_fresh(name: str, backbone: keras.Model, was_set: dict) -> None:
    if fresh := sorted(_variables(backbone).keys() - was_set.keys()):
        logging.info("%s lacks these variables, which stay as initialised: %s", name, ", ".join(fresh))
