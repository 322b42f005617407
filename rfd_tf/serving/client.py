"""Features from TensorFlow Serving."""

import math
import os
from collections.abc import Callable, Sequence

import numpy as np

from rfd_tf.serving.address import parse_address
from rfd_tf.serving.credentials import Credentials
from rfd_tf.serving.errors import BadInputError, ServingError
from rfd_tf.serving.image_files import check_image_file, image_name, read_image_file
from rfd_tf.serving.pieces import pieces
from rfd_tf.serving.retries import Retries
from rfd_tf.serving.served_model import ServedModel
from rfd_tf.serving.transport import AVAILABLE, Transport

MAX_BATCH = 64  # the exported batching parameters refuse more
ImageFile = str | os.PathLike | bytes


class ServingClient:
    """Asks one model of a server; a context manager.

    Big batches are sent in pieces. What fails for a moment is asked again: a server that cannot be reached,
    is overloaded or has a full queue (gRPC UNAVAILABLE, RESOURCE_EXHAUSTED; HTTP 429, 502, 503, 504).
    Refusals are final, and so is silence: a request without an answer in time may still be in work.

    Threads may share a client of gRPC; of REST each needs its own.

    Args:
        address: `SCHEME://HOST:PORT/NAME`, the scheme being `grpc` or `http`, with an `s` for TLS;
            `/versions/3` or `/labels/stable` may follow.
        timeout: of one try of one request, seconds.
        deadline: of a whole call with its pieces, tries and pauses, seconds; None for no bound.
        retries: further tries after the first.
        backoff: first pause between tries, seconds; see `retries.Retries`.
        seed: of the random part of the pauses; None for a different one each time.
        token: sent as `authorization: Bearer TOKEN`; refused for unencrypted addresses.
        allow_plaintext_token: sends it all the same.
        certificate: PEM file of the authority that signed the server's certificate; by default those that
            the system trusts.
        client_certificate, client_key: PEM files, where the server asks for them (mutual TLS).
        max_message_bytes: largest request and answer.
        max_image_bytes: largest encoded picture.
        max_batch: most images in a request.
        version, label: the model's version by number or label, as in the address.

    Raises:
        BadInputError: a ServingError and ValueError, on arguments that do not fit.
        ServingError: an OSError; every method raises it where the server cannot be reached or refuses.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 30.0,
        deadline: float | None = None,
        retries: int = 4,
        backoff: float = 0.2,
        seed: int | None = None,
        token: str | None = None,
        allow_plaintext_token: bool = False,
        certificate: str | os.PathLike | None = None,
        client_certificate: str | os.PathLike | None = None,
        client_key: str | os.PathLike | None = None,
        max_message_bytes: int = 64 << 20,
        max_image_bytes: int = 20 << 20,
        max_batch: int = MAX_BATCH,
        version: int | None = None,
        label: str | None = None,
    ):
        self.address = parse_address(address, version, label)
        positive = {
            "timeout": timeout,
            "deadline": deadline,
            "max_message_bytes": max_message_bytes,
            "max_image_bytes": max_image_bytes,
            "max_batch": max_batch,
        }
        for argument, value in positive.items():
            if value is not None and not value > 0:
                raise BadInputError(f"`{argument}` must be positive. Received: {argument}={value}")
        credentials = Credentials(token, certificate, client_certificate, client_key, allow_plaintext_token)
        credentials.check(self.address)
        self.timeout, self.deadline = timeout, deadline
        self.max_message_bytes, self.max_image_bytes = max_message_bytes, max_image_bytes
        self.max_batch = max_batch
        self._retries = Retries(retries, backoff, seed=seed)
        self._transport: Transport | None = self._connected(credentials)
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
        """Features of pictures, which the server decodes, resizes and crops as in evaluation.

        All are looked at before the first is sent.

        Args:
            files: paths or contents of JPEG, PNG, BMP or WebP files.
            names: the outputs wanted; all by default.

        Returns:
            name -> float32 [B, ...].

        Raises:
            BadInputError: on a file that cannot be read, is no picture, CMYK, damaged or too large; by name.
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
            content = read_image_file(file, position, self.max_image_bytes)
            check_image_file(content, image_name(file, position))
            sizes.append(max(self._open.file_bytes(len(content)), per_answer))
        parts = []
        for piece in pieces(sizes, self.max_message_bytes, self.max_batch):
            contents = [read_image_file(files[i], i, self.max_image_bytes) for i in piece]
            parts.append(self._predict(model, "jpeg", "encoded", contents, names, end))
        return _joined(parts, names)

    def about(self) -> dict:
        """The facts of the model, as `extractors.ModelInfo.to_json` gives them; asked for once."""
        return self._about(self._end()).facts

    def status(self) -> dict[int, str]:
        """State of each version of the model, or of the address's: `START`, `LOADING`, `AVAILABLE`, ..."""
        return self._ask(lambda transport, seconds: transport.status(seconds), self._end())

    def ready(self) -> bool:
        """Whether the model answers now; asked once, without further tries."""
        try:
            if self.address.label is None:
                return AVAILABLE in self._open.status(self.timeout).values()
            self._open.predict("about", "ignored", [b""], ["json"], self.timeout)
            return True
        except BadInputError:
            raise
        except ServingError:
            return False

    def close(self) -> None:
        """Ends the connection."""
        if self._transport is not None:
            self._transport.close()
        self._transport = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _connected(self, credentials: Credentials) -> Transport:
        if self.address.is_grpc:  # loads TensorFlow
            from rfd_tf.serving.grpc_transport import GrpcTransport as Protocol
        else:
            from rfd_tf.serving.rest_transport import RestTransport as Protocol
        return Protocol(self.address, credentials, self.max_message_bytes)

    @property
    def _open(self) -> Transport:
        if self._transport is None:
            raise ServingError(f"The client of {self.address.text} is closed")
        return self._transport

    def _end(self) -> float | None:
        return None if self.deadline is None else self._retries.clock() + self.deadline

    def _ask(self, action: Callable, end: float | None):
        transport = self._open
        return self._retries.run(
            lambda seconds: action(transport, seconds), self.timeout, end, self.address.text
        )

    def _about(self, end: float | None) -> ServedModel:
        if self._model is None:

            def ask(transport, seconds):
                return transport.predict("about", "ignored", [b""], ["json"], seconds)

            answer = self._ask(ask, end)
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
            for piece in pieces(sizes, self.max_message_bytes, self.max_batch)
        ]
        return _joined(parts, names)

    def _predict(self, model: ServedModel, signature: str, input_name: str, values, names, end):
        wanted = list(dict.fromkeys(names))

        def ask(transport, seconds):
            return transport.predict(signature, input_name, values, wanted, seconds)

        return model.check_answer(self._ask(ask, end), wanted, len(values))


def _joined(parts: list[dict[str, np.ndarray]], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in names}
