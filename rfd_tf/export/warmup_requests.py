"""Requests that TensorFlow Serving runs on a model before it lets anyone in."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from rfd_tf.atomic import atomic_path
from rfd_tf.extractors.model_info import UINT8, ModelInfo
from rfd_tf.models.feature_model import ROTATION_PROBABILITIES
from rfd_tf.serving.image_files import check_image_file

try:
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
except ImportError as error:
    raise ImportError(
        f"Files for TensorFlow Serving need its protocols ({error}): pip install 'rfd_tf[serving]'"
    ) from error

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_BYTES = 16 << 20  # of a signature's requests


def write_warmup_requests(
    saved_model: Path, info: ModelInfo, sample_images: Sequence[bytes], batch_sizes: Sequence[int]
) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog messages.

    `jpeg` and `serving_default` are asked with the sample images, once for each batch size, smallest first,
    as long as a signature's requests stay below 16 MiB together; the other signatures with one image.

    Args:
        saved_model: folder of the version.
        info: facts of the model.
        sample_images: encoded pictures, at least one; repeated where a batch needs more.
        batch_sizes: ascending.

    Raises:
        ValueError: on no sample images, or one that cannot be used.
    """
    if not sample_images:
        raise ValueError("`sample_images` is empty: warm-up requests need a picture")
    for position, content in enumerate(sample_images):
        check_image_file(content, f"sample image {position}")
    write_requests(saved_model, _requests(info, sample_images, batch_sizes))


def write_requests(saved_model: Path, requests: Iterable[predict_pb2.PredictRequest]) -> None:
    """Writes the file of these requests to the SavedModel in the folder `saved_model`."""
    with atomic_path(saved_model / WARMUP_FILE) as temporary, tf.io.TFRecordWriter(str(temporary)) as writer:
        for request in requests:
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def predict_request(model: str, signature: str, inputs: Mapping) -> predict_pb2.PredictRequest:
    """A request with these inputs by name, arrays."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


def _requests(info: ModelInfo, samples: Sequence[bytes], batch_sizes: Sequence[int]) -> Iterator:
    yield predict_request(info.name, "about", {"ignored": np.array([b""], dtype=object)})
    files = np.array(samples, dtype=object)
    images = np.stack([info.preprocessing.eval_image(tf.constant(content)) for content in samples])
    images = info.to_pixels(images) if info.input == UINT8 else images
    for signature, name, values, size in (
        ("jpeg", "encoded", files, max(map(len, samples))),
        ("serving_default", "image", images, images[0].nbytes),
    ):
        ends = itertools.accumulate(count * size for count in batch_sizes)
        for count, end in zip(batch_sizes, ends, strict=True):
            if count == batch_sizes[0] or end <= MAX_BYTES:
                yield predict_request(info.name, signature, {name: values[np.arange(count) % len(values)]})
    if ROTATION_PROBABILITIES in info.outputs:
        yield predict_request(info.name, ROTATION_PROBABILITIES, {"image": images[:1]})
