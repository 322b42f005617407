"""Runs evaluations of the tiny network, one after the other, in a process of its own.

Run as `python -m tests.evaluation.probe_process JOBS.json`, a list of
    {"protocol": ..., "images": FILE.npz, "workdir": ..., "changes": {...}, "form": "keras" or "other"}
where "devkit": FOLDER stands for "images", the config is that of VOC; "form" may be "with dense layers" as
well;
and, to be stopped at a known moment, "pause_at": a step before which the run waits for the file `WORKDIR.go`,
once it has written `WORKDIR.paused`.
"""

import json
import sys
import time
from pathlib import Path

import keras
from absl import logging

from rfd_tf.callbacks import TrainingStopped
from rfd_tf.evaluation.evaluate import evaluate
from rfd_tf.runs import fit
from tests.evaluation import tiny, voc


class Pause(keras.callbacks.Callback):
    def __init__(self, workdir: str, step: int):
        super().__init__()
        self.paused, self.go, self.step = Path(f"{workdir}.paused"), Path(f"{workdir}.go"), step

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.step:
            self.paused.touch()
            while not self.go.exists():
                time.sleep(0.02)


def open_form(form: str):
    if form == "with dense layers":
        return tiny.with_dense_layers()
    return tiny.OtherForm(tiny.feature_model()) if form == "other" else tiny.feature_model()


def main(path: str) -> int:
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    for job in json.loads(Path(path).read_text()):
        changes = {
            name: tuple(map(tuple_of, value)) if isinstance(value, list) else value
            for name, value in job.get("changes", {}).items()
        }
        if "pause_at" in job:
            pause = Pause(job["workdir"], job["pause_at"])
            fit.tensorboard_callbacks = lambda run, pause=pause: [pause]
        made = (voc, "devkit") if "devkit" in job else (tiny, "pictures")
        config = made[0].config_of(job[made[1]], **changes)
        try:
            evaluate(
                job["protocol"], config, job["workdir"], lambda job=job: open_form(job.get("form", "keras"))
            )
        except TrainingStopped as stop:
            print(stop)
            return 128 + stop.signal_number
    return 0


def tuple_of(value):
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
