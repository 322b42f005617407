"""What a run trains and tests on."""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.data.schedule import Schedule
from rfd_tf.features import FeatureModel
from rfd_tf.rotations import NUM_ROTATIONS, four_views, rotation_labels
from rfd_tf.runs.images import ImageSet, check_same_on_all_workers, name_bad_image, validation_share


class Inputs(abc.ABC):
    """Examples for training and for testing, with what they are to be told apart by.

    Attributes:
        num_examples: of an epoch.
        test_labels: [M, ...], in the order of `test_batches`.
    """

    num_examples: int
    test_labels: np.ndarray

    @abc.abstractmethod
    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        """Batches of (dict of inputs, labels), distributed, from `start_step` to the end of `epochs`."""

    @abc.abstractmethod
    def validation_batches(self, config: ConfigDict, strategy):
        """One pass over the test examples in the same form, distributed.

        On several replicas the examples beyond the last whole batch are left out.
        """

    @abc.abstractmethod
    def test_batches(self, config: ConfigDict) -> tf.data.Dataset:
        """One pass over all test examples, in order, for this process alone."""

    def check(self, strategy) -> None:  # noqa: B027  most have nothing to compare
        """Raise ValueError where workers have different examples."""

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:  # noqa: B027
        """Raise an error that names the image (or the failure of a model) that `error` came of."""


class ImageInputs(Inputs):
    """Decoded images: augmented for training, as the model wants them for testing.

    Args:
        training: images to learn from, with the augmentation as their preprocessing; `valid` are used.
        test: images to measure on.
        to_examples: what makes batches of (dict of inputs, labels) of those that `data` gives; by default
            they are labelled images as they come.
        test_labels: by default the labels of the test images.
        sampling, rotate_locally: of the training images, as of `data.training_dataset`.
    """

    def __init__(
        self,
        training: ImageSet,
        test: ImageSet,
        to_examples: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None,
        test_labels: np.ndarray | None = None,
        sampling: np.ndarray | None = None,
        rotate_locally: str = "",
    ):
        self.training = training
        self.test = test
        self.to_examples = to_examples or (lambda dataset: dataset)
        self.test_labels = test.labels if test_labels is None else test_labels
        self.sampling = sampling
        self.rotate_locally = rotate_locally
        self.num_examples = len(training.valid)  # images, as `batch_size` counts them

    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        def make(share: distribution.Share):
            valid, weights = self.training.valid, self.sampling
            dataset = data.training_dataset(
                self.training.source,
                dataclasses.replace(self.training.preprocessing, crops=1),  # a second is of no use here
                Schedule(valid, config.seed, config.batch_size, epochs, start_step, share, weights),
                with_labels=self.training.source.labels is not None,
                rotate_locally=self.rotate_locally,
            )
            return self.to_examples(dataset)

        return distribution.distribute_dataset(strategy, make)

    def validation_batches(self, config: ConfigDict, strategy):
        def make(share: distribution.Share):
            indices, batch_size = validation_share(self.test.valid, config.batch_size, share)
            return self._evaluated(indices, batch_size)

        return distribution.distribute_dataset(strategy, make)

    def test_batches(self, config: ConfigDict) -> tf.data.Dataset:
        return self._evaluated(self.test.valid, config.batch_size)

    def _evaluated(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        dataset = data.evaluation_dataset(self.test.source, self.test.preprocessing, batch_size, indices)
        return self.to_examples(dataset)

    def check(self, strategy) -> None:
        check_same_on_all_workers(self.training, strategy)

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:
        name_bad_image(config, self.training, self.test, step, error, self.sampling)


class ExtractedInputs(ImageInputs):
    """Features of labelled images, computed on the way by a model outside the one that is trained.

    Args:
        training, test: as of `ImageInputs`.
        feature_model: the model, in any form.
        names: the features that it shall give.
    """

    def __init__(self, training: ImageSet, test: ImageSet, feature_model: FeatureModel, names: Sequence[str]):
        super().__init__(training, test, self._extracted)
        self.feature_model = feature_model
        self.names = tuple(names)
        self._failure: Exception | None = None

    def _extracted(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        def extract(inputs, labels):
            types = [tf.float32] * len(self.names)
            found = tf.numpy_function(self._extract, [inputs["image"]], types, stateful=False)
            for name, feature in zip(self.names, found, strict=True):
                feature.set_shape([inputs["image"].shape[0], *self.feature_model.info.outputs[name]])
            return dict(zip(self.names, found, strict=True)), labels

        # One at a time: what computes features uses the whole machine, or a server.
        return dataset.map(extract, num_parallel_calls=1, deterministic=True).prefetch(2)

    def _extract(self, images: np.ndarray) -> list[np.ndarray]:
        try:
            return list(self.feature_model(images, self.names).values())
        except Exception as failure:
            self._failure = failure  # TensorFlow passes on no more than its text
            raise

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:
        if self._failure is not None:
            raise self._failure from error
        super().name_bad_image(config, step, error)


def rotation_inputs(training: ImageSet, test: ImageSet) -> ImageInputs:
    """The four views of images, labelled by their rotations; a batch of b images is 4 b examples."""

    def views(features, *_label):
        images = features["image"]
        return {"image": four_views(images)}, tf.tile(tf.range(NUM_ROTATIONS), [tf.shape(images)[0]])

    labels = rotation_labels(len(test.valid)).astype("int64")
    return ImageInputs(training, test, lambda dataset: dataset.map(views), labels)


def multi_label_inputs(training: ImageSet, test: ImageSet) -> ImageInputs:
    """Images that show any number of classes, of sources with `targets` [N, C] as of `MultiLabelLoss`."""
    targets = data.host_constant(training.source.targets)  # type: ignore[attr-defined]

    def with_targets(features, *_label):
        return {"image": features["image"]}, tf.gather(targets, features["index"])

    return ImageInputs(training, test, lambda dataset: dataset.map(with_targets), test.targets)


def image_crops(
    images: ImageSet, training: data.Preprocessing, crops: int, config: ConfigDict
) -> tf.data.Dataset:
    """One pass over images in order, each in several crops: float32 [b, K, S, S, 3].

    Args:
        images: to be looked at.
        training: how random crops are cut.
        crops: random ones of each image; 0 for its centre alone.
        config: of the run, for `batch_size` and `seed`.
    """
    if crops:
        batch_size = max(1, config.batch_size // crops)
        training = dataclasses.replace(training, augment=())  # labels are told of images as they are
        dataset = data.random_crops_dataset(
            images.source, training, batch_size, crops, config.seed, images.valid
        )
        return dataset.map(lambda features: features["image"])
    dataset = data.evaluation_dataset(images.source, images.preprocessing, config.batch_size, images.valid)
    return dataset.map(lambda features, *_label: features["image"][:, None])


_PREFETCHED_BATCHES = 4


class FeatureInputs(Inputs):
    """Features that were computed once: arrays in memory, or mapped from files, of which a batch is read.

    The order of the examples is that of images: a function of (seed, epoch, row).

    Args:
        training: feature name -> float array [N, ...].
        training_labels: [N].
        test: feature name -> float array [M, ...].
        test_labels: [M].
    """

    def __init__(
        self,
        training: Mapping[str, np.ndarray],
        training_labels: np.ndarray,
        test: Mapping[str, np.ndarray],
        test_labels: np.ndarray,
    ):
        self.training = training
        self.test = test
        self.training_labels = np.asarray(training_labels, dtype="int64")
        self.test_labels = np.asarray(test_labels, dtype="int64")
        self.num_examples = len(self.training_labels)

    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        def make(share: distribution.Share):
            rows = np.arange(self.num_examples)
            schedule = Schedule(rows, config.seed, config.batch_size, epochs, start_step, share)
            dataset = tf.data.Dataset.range(*schedule.positions())
            dataset = dataset.map(
                lambda position: schedule.epoch_and_index(position)[1],
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            dataset = dataset.batch(schedule.replica_batch, drop_remainder=True)
            return _reading(dataset, self.training, self.training_labels)

        return distribution.distribute_dataset(strategy, make)

    def validation_batches(self, config: ConfigDict, strategy):
        def make(share: distribution.Share):
            rows, batch_size = validation_share(np.arange(len(self.test_labels)), config.batch_size, share)
            dataset = tf.data.Dataset.from_tensor_slices(rows).batch(batch_size)
            return _reading(dataset, self.test, self.test_labels)

        return distribution.distribute_dataset(strategy, make)

    def test_batches(self, config: ConfigDict) -> tf.data.Dataset:
        dataset = tf.data.Dataset.range(len(self.test_labels)).batch(config.batch_size)
        return _reading(dataset, self.test, self.test_labels)


def _reading(rows: tf.data.Dataset, features: Mapping[str, np.ndarray], labels: np.ndarray):
    """Batches of rows as batches of (dict of features, labels)."""
    names = list(features)

    def fetch(chosen: np.ndarray) -> list[np.ndarray]:
        return [*(np.asarray(features[name][chosen], "float32") for name in names), labels[chosen]]

    def read(chosen: tf.Tensor):
        types = [*([tf.float32] * len(names)), tf.int64]
        *found, classes = tf.numpy_function(fetch, [chosen], types, stateful=False)
        for name, feature in zip(names, found, strict=True):
            feature.set_shape([chosen.shape[0], *features[name].shape[1:]])
        classes.set_shape([chosen.shape[0]])
        return dict(zip(names, found, strict=True)), classes

    dataset = rows.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(_PREFETCHED_BATCHES).with_options(options)
