"""Training by `model.fit` that is checkpointed, can be killed at any moment, and resumes exactly."""

import dataclasses
import errno
import json
import os
import zlib
from collections.abc import Callable

import keras
import tensorflow as tf
from absl import logging
from ml_collections import FrozenConfigDict

from rfd_tf import data, distribution
from rfd_tf.callbacks import EpochSummary, GracefulStop, StopOnNonFinite, TrainingCheckpoint
from rfd_tf.files import naming
from rfd_tf.runs.build import specialize_for_device
from rfd_tf.runs.images import IMAGE_ERRORS
from rfd_tf.runs.run import Run, callback_factories
from rfd_tf.runs.workdir import HISTORY_FILE, WorkdirError, trim_history

_COMPARED_CHECKPOINTS = 16
Callbacks = list[keras.callbacks.Callback]


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained, on what.

    Attributes:
        num_examples: of an epoch; the remainder beyond whole batches is dropped.
        build_model: (whether batch norm takes its statistics over several replicas, whether the weights come
            from a checkpoint) -> the compiled model, its optimizer built. Called under the strategy's scope.
        batches: (start step, epochs) -> what `fit` is given, from that step to the end of the last epoch.
        name_bad_image: (step, error) -> raises an error that names the image that `error` came of, if any.
        validation_batches: what `fit` validates on after every epoch, or None.
        state_callbacks: those that set the model's state by epoch, on every worker.
        measuring_callbacks: those that add to the logs or write them, on the first worker; by default
            TensorBoard's, where the config asks for it.
    """

    num_examples: int
    build_model: Callable[[bool, bool], keras.Model]
    batches: Callable[[int, int], object]
    name_bad_image: Callable[[int, tf.errors.OpError], None]
    validation_batches: Callable[[], object] = lambda: None
    state_callbacks: Callable[[keras.Model], Callbacks] = lambda model: []
    measuring_callbacks: Callable[[], Callbacks] | None = None


def fit(run: Run, training: Training, ready: Callable[[], None] = lambda: None) -> keras.Model:
    """Train to the end of the last epoch, from the newest checkpoint that every worker has.

    Args:
        run: `history.csv` and `checkpoints/` are in its folder.
        training: what is trained.
        ready: called when the model is built, before the first step.

    Returns:
        The trained model.

    Raises:
        WorkdirError: if the workers have no checkpoint in common.
        NonFiniteLossError: when a loss is no longer finite; the last checkpoint is from before.
        TrainingStopped: on SIGTERM or Ctrl-C, once the state is saved.
    """
    config = run.config
    _check_same_config(run)
    steps_per_epoch = data.steps_per_epoch(training.num_examples, config.batch_size)
    checkpoint = TrainingCheckpoint(
        run.workdir / "checkpoints",
        steps_per_epoch,
        config.checkpoint_steps,
        config.keep_checkpoints,
        [folder / "checkpoints" for folder in run.workers_folders() if folder != run.workdir],
    )
    checkpoint.clean()
    step = _newest_common_step(run.strategy, checkpoint)
    checkpoint.discard(lambda other: other > step)
    with run.strategy.scope():
        model = training.build_model(run.strategy.num_replicas_in_sync > 1, step > 0)
        if step:
            checkpoint.restore(model, step)
    specialize_for_device(model)
    if step:
        logging.info("Continuing after step %d", step)
    if not run.worker:
        trim_history(run.workdir / HISTORY_FILE, step // steps_per_epoch)
    checkpoint.set_model(model)  # `fit` may fail before it would
    callbacks = _all_callbacks(run, training, model, checkpoint)
    ready()
    epoch, done = divmod(step, steps_per_epoch)
    spans = [(epoch, epoch + 1, done), (epoch + 1, config.epochs, 0)] if done else [(epoch, config.epochs, 0)]
    for first, end, done in spans:
        if first < config.epochs:
            _fit_epochs(run, training, checkpoint, callbacks, (first, end, steps_per_epoch - done))
    return model


def _check_same_config(run: Run) -> None:
    """Raise ValueError where workers were started with different configs, but for where they find files."""

    def common(fields: dict) -> dict:
        kept = {
            name: value for name, value in fields.items() if name not in ("root", "path", "folder", "init")
        }
        return {name: common(value) if isinstance(value, dict) else value for name, value in kept.items()}

    digest = zlib.crc32(json.dumps(common(run.config.to_dict()), sort_keys=True, default=str).encode())
    found = distribution.gather_over_workers(run.strategy, [digest])
    if others := distribution.unlike_the_first(run.strategy, found):
        raise ValueError(f"Started with another config than the first worker: {others}")


def _newest_common_step(strategy, checkpoint: TrainingCheckpoint) -> int:
    """The newest step that every worker has a checkpoint of; 0 where none has any."""
    steps = checkpoint.steps()[-_COMPARED_CHECKPOINTS:]
    padded = steps + [0] * (_COMPARED_CHECKPOINTS - len(steps))
    by_worker = [set(row.tolist()) - {0} for row in distribution.gather_over_workers(strategy, padded)]
    common = set.intersection(*by_worker)
    if common or not any(by_worker):
        return max(common, default=0)
    held = "; ".join(f"worker {i}: {sorted(steps) or 'none'}" for i, steps in enumerate(by_worker))
    raise WorkdirError(
        f"The workers have no checkpoint of the same step ({held}). Copy the checkpoint folder of one "
        "worker to the others, or start anew in another folder"
    )


def tensorboard_callbacks(run: Run) -> Callbacks:
    """TensorBoard's, where the config asks for it."""
    if not run.config.tensorboard:
        return []
    return [keras.callbacks.TensorBoard(run.workdir / "tensorboard", write_graph=False)]


def _all_callbacks(run: Run, training: Training, model: keras.Model, checkpoint) -> Callbacks:
    """In the order they must act: set state, measure, log, the user's, refuse NaN, save, stop."""
    acting = training.state_callbacks(model)
    if not run.worker:
        measuring = training.measuring_callbacks
        acting += measuring() if measuring else tensorboard_callbacks(run)
        acting.append(keras.callbacks.CSVLogger(str(run.workdir / HISTORY_FILE), append=True))
        acting += [EpochSummary(run.config.epochs), *_users_callbacks(run)]

    def any_worker(asked: bool) -> bool:
        return bool(distribution.gather_over_workers(run.strategy, [asked]).any())

    stop = GracefulStop(checkpoint, any_worker if run.config.strategy == "multi_worker" else None)
    return [*acting, StopOnNonFinite(checkpoint), checkpoint, stop]


def _users_callbacks(run: Run) -> Callbacks:
    """What the factories of `config.callbacks` make; on the first worker."""
    made: Callbacks = []
    for name, factory in callback_factories(run.config).items():
        try:
            given = factory(FrozenConfigDict(run.config), run.workdir)
        except Exception as error:  # it is not ours, and may fail in any way
            raise ValueError(f"`callbacks`: {name!r} failed: {type(error).__name__}: {error}") from error
        its = list(given) if isinstance(given, list | tuple) else [given]
        if not all(isinstance(callback, keras.callbacks.Callback) for callback in its):
            raise ValueError(f"`callbacks`: {name!r} must return Keras callbacks. Received: {given!r}")
        made += its
    return made


def _fit_epochs(run: Run, training: Training, checkpoint, callbacks: Callbacks, span) -> None:
    """Train a span of (first epoch, the epoch after the last, steps of each)."""
    first, end, steps = span
    steps_per_epoch = checkpoint.steps_per_epoch
    batches = training.batches((first + 1) * steps_per_epoch - steps, end)
    held_out = training.validation_batches()
    try:
        with naming(run.workdir), distribution.keras_workarounds(run.strategy):
            checkpoint.model.fit(
                batches,
                epochs=end,
                initial_epoch=first,
                steps_per_epoch=steps,
                shuffle=False,  # the batches come shuffled
                validation_data=held_out,
                callbacks=callbacks,
                verbose=0,  # `EpochSummary` tells
            )
    except IMAGE_ERRORS as error:
        training.name_bad_image(checkpoint.step, error)
        raise
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" not in error.message:  # but in memory
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.workdir)) from error
    finally:
        callbacks[-1].restore_handlers()
