"""The client, and what it knows about the served model."""

import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from rfd_tf.files import parse_json
from rfd_tf.image_header import check_encoded
from rfd_tf.serving.transport import (
    AVAILABLE,
    Answer,
    BadInputError,
    ClientOptions,
    Retries,
    ServingError,
    Transport,
    parse_address,
)

_MARGIN = 4096  # names, shapes and framing


def pieces(sizes: Sequence[int], max_message_bytes: int, max_batch: int) -> Iterator[range]:
    """Positions of the images that are sent together, in order.

    Args:
        sizes: bytes of each image in a message.
        max_message_bytes: largest message.
        max_batch: most images in one.

    Raises:
        BadInputError: if one image alone is too large.
    """
    start, total, limit = 0, 0, max_message_bytes - _MARGIN
    for position, size in enumerate(sizes):
        if size > limit:
            raise BadInputError(
                f"image {position} of the batch takes about {size} bytes to send or to answer: raise "
                f"`max_message_bytes` ({max_message_bytes}) or ask for fewer outputs"
            )
        if position > start and (total + size > limit or position - start == max_batch):
            yield range(start, position)
            start, total = position, 0
        total += size
    yield range(start, len(sizes))


FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


def read_image_file(given: str | os.PathLike | bytes, position: int, max_bytes: int) -> bytes:
    """The bytes of a path, or `given` itself.

    Raises:
        BadInputError: if the file cannot be read, or has more than `max_bytes` bytes.
    """
    name = image_name(given, position)
    if isinstance(given, bytes | bytearray | memoryview):
        size = len(given)
    elif isinstance(given, str | os.PathLike):
        try:
            size = Path(given).stat().st_size
        except OSError as error:
            raise BadInputError(f"{name}: {error.strerror or error}") from error
    else:
        raise BadInputError(f"{name} must be a path or bytes. Received: {type(given).__name__}")
    if size > max_bytes:
        raise BadInputError(f"{name} has {size} bytes, more than {max_bytes} (`max_image_bytes`)")
    try:
        return Path(given).read_bytes() if isinstance(given, str | os.PathLike) else bytes(given)
    except OSError as error:
        raise BadInputError(f"{name}: {error.strerror or error}") from error


def image_name(given: object, position: int) -> str:
    """An image's name in messages: its path, or its position in the batch, counted from 0."""
    return os.fspath(given) if isinstance(given, str | os.PathLike) else f"image {position} of the batch"


def check_image_file(content: bytes, name: str) -> None:
    """Checks an image's header as exported models do, then decodes it once.

    Args:
        content: the file's bytes.
        name: for the message.

    Raises:
        BadInputError: if `image_header.check_encoded` refuses it, or it is damaged or cut short.
    """
    if reason := check_encoded(content):
        raise BadInputError(f"{name}: {reason}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.verify()  # finds PNG files without an end, which `load` does not
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
    except Exception as error:  # PIL's decoders raise whatever damaged bytes lead to
        raise BadInputError(f"{name}: it is damaged or cut short ({error})") from error


class ServedModel:
    """The facts of a served model, and the checks that follow from them.

    Args:
        answer: of its signature `about`.
        where: the server's address.

    Attributes:
        facts: as `features.ModelInfo.to_json` writes them.
        image_shape: [S, S, 3].
        dtype: of its input images, `float32` or `uint8`.
        outputs: name -> shape for one image.

    Raises:
        ServingError: if the answer does not describe a feature model.
    """

    def __init__(self, answer: dict[str, np.ndarray], where: str):
        self._where = where
        try:
            self.facts = parse_json(np.asarray(answer["json"]).item())
            size = int(self.facts["preprocessing"]["image_size"])
            self.outputs = {name: tuple(map(int, shape)) for name, shape in self.facts["outputs"].items()}
            self.dtype = "uint8" if self.facts["input"] == "uint8" else "float32"
            if size < 1 or any(side < 0 for shape in self.outputs.values() for side in shape):
                raise ValueError("a size is negative")
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ServingError(f"{where} gives no valid description of a feature model") from error
        self.image_shape = (size, size, 3)

    def numbers(self, names: Iterable[str]) -> int:
        """How many numbers these outputs have for one image."""
        return sum(math.prod(self.outputs[name]) for name in names)

    def check_names(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """`names`, or all outputs; unknown ones raise BadInputError."""
        names = tuple(self.outputs) if names is None else tuple(names)
        if not names:
            raise BadInputError("`names` is empty: ask for at least one output")
        if unknown := [name for name in names if name not in self.outputs]:
            raise BadInputError(
                f"{self._where} has no output {unknown[0]!r}; it has {', '.join(self.outputs)}"
            )
        return names

    def check_images(self, images) -> np.ndarray:
        """`images` as an array of the model's dtype; BadInputError if their shape or dtype does not fit."""
        images = np.asarray(images)
        expected = ", ".join(map(str, self.image_shape))
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            raise BadInputError(f"`images` must have shape [B, {expected}]. Received {images.shape}")
        if len(images) == 0:
            raise BadInputError("`images` is an empty batch")
        if self.dtype == "uint8":
            if images.dtype != np.uint8:
                raise BadInputError(
                    f"`images` must be uint8: the model normalises itself. Received dtype {images.dtype}"
                )
            return images
        if images.dtype.kind != "f":
            raise BadInputError(f"`images` must be normalised float32. Received dtype {images.dtype}")
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            images = images.astype("float32", copy=False)
        finite = np.isfinite(images).all(axis=(1, 2, 3))
        if not finite.all():
            raise BadInputError(f"`images` must be finite: image {np.argmin(finite)} of the batch is not")
        return images

    def check_answer(
        self, answer: dict[str, np.ndarray], names: Sequence[str], count: int
    ) -> dict[str, np.ndarray]:
        """The outputs `names` for `count` images, float32; ServingError if one is missing or misshapen."""
        for name in names:
            if name not in answer:
                raise ServingError(f"{self._where}: the answer lacks the output {name!r}")
            expected = (count, *self.outputs[name])
            if answer[name].shape != expected or answer[name].dtype.kind != "f":
                raise ServingError(
                    f"{self._where}: the output {name!r} must be of shape {expected}. Received "
                    f"{answer[name].dtype} of shape {answer[name].shape}"
                )
        return {name: answer[name].astype("float32", copy=False) for name in names}


ImageFile = str | os.PathLike | bytes


class ServingClient:
    """A client of one model of a server; a context manager.

    Big batches are sent in pieces. Temporary failures are tried again: a server that cannot be reached, is
    overloaded or has a full queue (gRPC UNAVAILABLE, RESOURCE_EXHAUSTED; HTTP 429, 502, 503, 504). Refusals
    are final, and so are timeouts: the server may still be working on the request.

    Threads may share a gRPC client; of REST each needs its own.

    Args:
        address: `SCHEME://HOST:PORT/NAME`, the scheme being `grpc` or `http`, with an `s` for TLS;
            `/versions/3` or `/labels/stable` may follow.
        options: see there; the default ones if None.
        **changes: fields of `ClientOptions` that differ from `options`.

    Raises:
        BadInputError: a ServingError and ValueError, on arguments that do not fit.
        ServingError: an OSError; every method raises it where the server cannot be reached or refuses.

    Example:
        >>> with ServingClient("grpc://localhost:8500/NAME", timeout=10) as client:
        ...     features = client.features_of_files(["photo.jpg"])
    """

    def __init__(self, address: str, options: ClientOptions | None = None, **changes):
        self.options = dataclasses.replace(options or ClientOptions(), **changes)
        self.address = parse_address(address, self.options.version, self.options.label)
        self.options.check_credentials(self.address)
        self._retries = Retries(self.options.retries, self.options.backoff, seed=self.options.seed)
        self._transport: Transport | None = self._connected()
        self._model: ServedModel | None = None

    def features(self, images: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Features of prepared images.

        Args:
            images: [B, S, S, 3], normalised float32, or uint8 pixels where the model takes these.
            names: the outputs wanted; all by default.

        Returns:
            name -> float32 [B, ...].
        """
        return self._of_arrays("serving_default", images, names)

    def rotation_probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of the four rotations, float32 [B, 4]; `images` as for `features`."""
        name = "rotation_probabilities"
        return self._of_arrays(name, images, [name], given=[name])[name]

    def features_of_files(
        self, files: Sequence[ImageFile], names: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Features of image files, which the server decodes, resizes and crops as in evaluation.

        All files are checked before the first is sent.

        Args:
            files: paths or contents of JPEG, PNG, BMP or WebP files.
            names: the outputs wanted; all by default.

        Returns:
            name -> float32 [B, ...].

        Raises:
            BadInputError: on a file that cannot be read, is not an image, CMYK, damaged or too large; named.
        """
        if isinstance(files, str | bytes | os.PathLike):
            raise BadInputError("`files` must be a list of paths or contents. Received only one")
        files, end = list(files), self._end()
        if not files:
            raise BadInputError("`files` is an empty batch")
        model = self._about(end)
        names = model.check_names(names)
        per_answer = self._open.answer_bytes(model.numbers(names), model.numbers(model.outputs))
        sizes = []
        for position, file in enumerate(files):
            content = read_image_file(file, position, self.options.max_image_bytes)
            check_image_file(content, image_name(file, position))
            sizes.append(max(self._open.file_bytes(len(content)), per_answer))
        parts = []
        for piece in pieces(sizes, self.options.max_message_bytes, self.options.max_batch):
            contents = [read_image_file(files[i], i, self.options.max_image_bytes) for i in piece]
            parts.append(self._predict(model, "jpeg", "encoded", contents, names, end))
        return _joined(parts, names)

    def about(self) -> dict:
        """The facts of the model, as `features.ModelInfo.to_json` writes them; asked for once."""
        return self._about(self._end()).facts

    def status(self) -> dict[int, str]:
        """State of each version of the model, or of the address's: `START`, `LOADING`, `AVAILABLE`, ..."""
        return self._ask(self._open.status, self._end())

    def ready(self) -> bool:
        """Whether the model answers now; tried only once."""
        try:
            if self.address.label is None:
                return AVAILABLE in self._open.status(self.options.timeout).values()
            self._open.predict("about", "ignored", [b""], ["json"], self.options.timeout)
            return True
        except BadInputError:
            raise
        except ServingError:
            return False

    def close(self) -> None:
        """Closes the connection."""
        if self._transport is not None:
            self._transport.close()
        self._transport = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _connected(self) -> Transport:
        if self.address.is_grpc:  # loads TensorFlow
            from rfd_tf.serving.grpc_transport import GrpcTransport

            return GrpcTransport(self.address, self.options)
        from rfd_tf.serving.rest_transport import RestTransport

        return RestTransport(self.address, self.options)

    @property
    def _open(self) -> Transport:
        if self._transport is None:
            raise ServingError(f"The client of {self.address.text} is closed")
        return self._transport

    def _end(self) -> float | None:
        return None if self.options.deadline is None else self._retries.clock() + self.options.deadline

    def _ask(self, action: Callable[[float], Answer], end: float | None) -> Answer:
        return self._retries.run(action, self.options.timeout, end, self.address.text)

    def _about(self, end: float | None) -> ServedModel:
        if self._model is None:
            question = ("about", "ignored", [b""], ["json"])
            answer = self._ask(partial(self._open.predict, *question), end)
            self._model = ServedModel(answer, self.address.text)
        return self._model

    def _of_arrays(self, signature: str, images, names, given=None) -> dict[str, np.ndarray]:
        """`given`: the outputs of the signature; None for all of the model."""
        end = self._end()
        model = self._about(end)
        names = model.check_names(names)
        images = model.check_images(images)
        request = self._open.array_bytes(math.prod(model.image_shape), images.dtype.name)
        answer = self._open.answer_bytes(model.numbers(names), model.numbers(given or model.outputs))
        sizes = [max(request, answer)] * len(images)
        parts = [
            self._predict(model, signature, "image", images[piece.start : piece.stop], names, end)
            for piece in pieces(sizes, self.options.max_message_bytes, self.options.max_batch)
        ]
        return _joined(parts, names)

    def _predict(self, model: ServedModel, signature: str, input_name: str, values, names, end):
        wanted = list(dict.fromkeys(names))
        answer = self._ask(partial(self._open.predict, signature, input_name, values, wanted), end)
        return model.check_answer(answer, wanted, len(values))


def _joined(parts: list[dict[str, np.ndarray]], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
