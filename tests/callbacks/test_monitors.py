import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rfd_tf.callbacks import InstanceWeighting, KNNMonitor, TrainingSummaries
from rfd_tf.metrics import weighted_knn_predict
from rfd_tf.models import InstanceTask, RotationDecoupling, RotationTask, extract_features, resnet_cifar

N = 16
rng = np.random.default_rng(0)


def model_of(rotation_task=RotationTask()):
    backbone = resnet_cifar(8, (8, 8, 3), ["pool"], width=4)
    model = RotationDecoupling(
        backbone, N, rotation_task=rotation_task, instance_task=InstanceTask(num_negatives=4)
    )
    model.compile("sgd")
    return model


DATA = {"image": rng.normal(size=(N, 8, 8, 3)).astype("float32"), "index": np.arange(N)}
LABELS = np.arange(N) % 2


def test_knn_accuracy_is_in_the_logs_of_every_epoch():
    model = model_of()
    batches = tf.data.Dataset.from_tensor_slices(DATA).batch(5)
    monitor = KNNMonitor(batches, LABELS, "pool", every_epochs=2, k=3)
    history = model.fit(DATA, batch_size=8, epochs=3, verbose=0, callbacks=[monitor]).history
    assert len(history["knn_accuracy"]) == 3
    features, index = extract_features(model.backbone, batches, "pool")
    np.testing.assert_array_equal(index, np.arange(N))
    predicted = weighted_knn_predict(features, LABELS, None, k=3)
    assert monitor.measure() == np.mean(predicted == LABELS)


def test_summaries_hold_what_the_docs_promise(tmp_path):
    callbacks = [TrainingSummaries(tmp_path, DATA["image"][:2])]
    model_of().fit(DATA, validation_data=(DATA,), batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {
        "epoch/rotation_loss",
        "epoch/val_instance_loss",
        "learning_rate",
        "bank/norm_mean",
        "bank/normalizer",
        "decoupling/train_gap",
        "decoupling/val_gap",
        "views",
        "filters",
    } <= tags
    values = [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("bank/norm_mean")]
    assert len(values) == 2
    assert values[-1] == pytest.approx(1.0, abs=1e-3)  # every row has been normalised by now
    header = tf.make_ndarray(events.Tensors("views")[0].tensor_proto)
    assert (int(header[0]), int(header[1])) == (4 * 8, 2 * 8)  # width of four views, height of two images


def test_instance_weighting_by_epoch():
    model = model_of(RotationTask(use_instance_weights=True))
    switch = []
    read = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: switch.append(float(model.instance_weighting.numpy()))
    )
    model.fit(DATA, epochs=3, verbose=0, callbacks=[InstanceWeighting(2), read])
    assert switch == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="start_epoch=-1"):
        InstanceWeighting(-1)
    with pytest.raises(ValueError, match="use_instance_weights"):
        model_of().fit(DATA, verbose=0, callbacks=[InstanceWeighting(0)])
