"""What a run trains and tests on."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from ml_collections import ConfigDict

from rfd_tf import data, distribution
from rfd_tf.data.schedule import Schedule
from rfd_tf.features import FeatureExtractor
from rfd_tf.rotations import NUM_ROTATIONS, four_views, rotation_labels
from rfd_tf.runs.images import Pictures, check_same_on_all_workers, name_bad_image, validation_share


class ProbeInputs(abc.ABC):
    """Labelled examples for training and for testing.

    Attributes:
        num_examples: of an epoch.
        test_labels: int64 [M], in the order of `test_batches`.
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
        """Raise an error that names the picture (or the failure of a model) that `error` came of."""


class PictureBatches(ProbeInputs):
    """Decoded pictures: augmented for training, as the model wants them for testing.

    Subclasses say what becomes of a batch, and set `test_labels`.

    Args:
        training: pictures to learn from, with the augmentation as their preprocessing; `valid` are used.
        test: pictures to measure on.
        sampling, rotate_locally: of the training pictures, as of `data.training_dataset`.

    Attributes:
        with_labels: whether the training pictures come with their labels.
    """

    with_labels: bool

    def __init__(
        self,
        training: Pictures,
        test: Pictures,
        sampling: np.ndarray | None = None,
        rotate_locally: str = "",
    ):
        self.training = training
        self.test = test
        self.sampling = sampling
        self.rotate_locally = rotate_locally
        self.num_examples = len(training.valid)  # pictures, as `batch_size` counts them

    @abc.abstractmethod
    def _examples(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Batches of (dict of inputs, labels), from what `data` gives for training or evaluation."""

    def training_batches(self, config: ConfigDict, strategy, start_step: int, epochs: int):
        def make(num_workers, worker_index, replicas_per_worker):
            dataset = data.training_dataset(
                self.training.source,
                dataclasses.replace(self.training.preprocessing, crops=1),  # a second is of no use here
                batch_size=config.batch_size,
                seed=config.seed,
                epochs=epochs,
                start_step=start_step,
                with_labels=self.with_labels,
                valid_indices=self.training.valid,
                sampling_weights=self.sampling,
                rotate_locally=self.rotate_locally,
                num_workers=num_workers,
                worker_index=worker_index,
                replicas_per_worker=replicas_per_worker,
            )
            return self._examples(dataset)

        return distribution.distribute_dataset(strategy, make)

    def validation_batches(self, config: ConfigDict, strategy):
        def make(*place):
            indices, batch_size = validation_share(self.test.valid, config.batch_size, *place)
            return self._evaluated(indices, batch_size)

        return distribution.distribute_dataset(strategy, make)

    def test_batches(self, config: ConfigDict) -> tf.data.Dataset:
        return self._evaluated(self.test.valid, config.batch_size)

    def _evaluated(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        dataset = data.evaluation_dataset(self.test.source, self.test.preprocessing, batch_size, indices)
        return self._examples(dataset)

    def check(self, strategy) -> None:
        check_same_on_all_workers(self.training, strategy)

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:
        name_bad_image(config, self.training, self.test, step, error, self.sampling)


class PictureInputs(PictureBatches):
    """Labelled pictures, or their features by a model outside the one that is trained.

    Args:
        training: labelled, with the augmentation as its preprocessing.
        test: labelled.
        extractor: None to give the pictures themselves, for a network within the trained model; else the
            model, in any form, that turns each batch into features on the way.
        names: the features that it shall give.
        sampling, rotate_locally: of the training pictures, as of `data.training_dataset`.
    """

    with_labels = True

    def __init__(
        self,
        training: Pictures,
        test: Pictures,
        extractor: FeatureExtractor | None = None,
        names: Sequence[str] = (),
        sampling: np.ndarray | None = None,
        rotate_locally: str = "",
    ):
        super().__init__(training, test, sampling, rotate_locally)
        self.extractor = extractor
        self.names = tuple(names)
        self.test_labels = test.source.labels[test.valid]
        self._failure: Exception | None = None

    def _examples(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        if self.extractor is None:
            return dataset

        def extract(inputs, labels):
            types = [tf.float32] * len(self.names)
            found = tf.numpy_function(self._extract, [inputs["image"]], types, stateful=False)
            for name, feature in zip(self.names, found, strict=True):
                feature.set_shape([inputs["image"].shape[0], *self.extractor.info.outputs[name]])
            return dict(zip(self.names, found, strict=True)), labels

        # One at a time: what computes features uses the whole machine, or a server.
        return dataset.map(extract, num_parallel_calls=1, deterministic=True).prefetch(2)

    def _extract(self, images: np.ndarray) -> list[np.ndarray]:
        try:
            return list(self.extractor(images, self.names).values())
        except Exception as failure:
            self._failure = failure  # TensorFlow passes on no more than its text
            raise

    def name_bad_image(self, config: ConfigDict, step: int, error: tf.errors.OpError) -> None:
        if self._failure is not None:
            raise self._failure from error
        super().name_bad_image(config, step, error)


class RotationInputs(PictureBatches):
    """The four views of pictures, labelled by their rotations; a batch of b pictures is 4 b examples.

    Args:
        training: those to learn from.
        test: those to predict.
    """

    with_labels = False

    def __init__(self, training: Pictures, test: Pictures):
        super().__init__(training, test)
        self.test_labels = rotation_labels(len(test.valid)).astype("int64")

    def _examples(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(_views)


def _views(features, *_label):
    images = features["image"]
    labels = tf.tile(tf.range(NUM_ROTATIONS), [tf.shape(images)[0]])
    return {"image": four_views(images)}, labels


class MultiLabelInputs(PictureBatches):
    """Pictures that show any number of classes: augmented for training, several crops each for testing.

    Args:
        training: those to learn from, with the augmentation as their preprocessing; of a source with
            `targets` [N, C], as of `MultiLabelLoss`.
        test: those to measure on; of such a source.
        crops: random crops of each test picture, cut as training pictures are; 0 for its centre alone.
    """

    with_labels = False

    def __init__(self, training: Pictures, test: Pictures, crops: int):
        super().__init__(training, test)
        if crops < 0:
            raise ValueError(f"The number of test crops must not be negative. Received: {crops}")
        self.crops = crops
        self.test_labels = test.source.targets[test.valid]

    def _examples(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        targets = data.host_constant(self.training.source.targets)
        return dataset.map(
            lambda features: ({"image": features["image"]}, tf.gather(targets, features["index"]))
        )

    def test_crops(self, config: ConfigDict) -> tf.data.Dataset:
        """One pass over the test pictures in order: images [b, K, S, S, 3]."""
        if self.crops:
            dataset = data.random_crops_dataset(
                self.test.source,
                self.training.preprocessing,
                max(1, config.batch_size // self.crops),
                self.crops,
                config.seed,
                self.test.valid,
            )
            return dataset.map(lambda features: features["image"])
        dataset = data.evaluation_dataset(
            self.test.source, self.test.preprocessing, config.batch_size, self.test.valid
        )
        return dataset.map(lambda features: features["image"][:, None])


_PREFETCHED_BATCHES = 4


class FeatureInputs(ProbeInputs):
    """Features that were computed once: arrays in memory, or mapped from files, of which a batch is read.

    The order of the examples is that of pictures: a function of (seed, epoch, row).

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
        def make(num_workers, worker_index, replicas_per_worker):
            rows = np.arange(self.num_examples)
            schedule = Schedule(
                rows,
                config.seed,
                config.batch_size,
                epochs,
                start_step,
                num_workers,
                worker_index,
                replicas_per_worker,
            )
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
        def make(*place):
            rows, batch_size = validation_share(np.arange(len(self.test_labels)), config.batch_size, *place)
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
