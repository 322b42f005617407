"""`rfd detect`: Fast R-CNN on PASCAL VOC, or a trained detector on images of yours."""

import functools
import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.cli.models import (
    KERAS_MODEL_HELP,
    define_exif_orientation,
    define_svd,
    open_any_detector,
    open_model,
)
from rfd_tf.terminal import shell_join

USAGE = """rfd detect --model=NETWORK --config=NAME|FILE.py --workdir=DIR [--control]
           [--config.FIELD=VALUE ...]
rfd detect --model=DETECTOR --config=NAME|FILE.py --workdir=DIR [--svd=1024,256]
           [--config.FIELD=VALUE ...]
rfd detect --model=DETECTOR --images=FOLDER --out=DIR [--svd=1024,256]

The first proposes regions, trains a detector that begins as the pretrained network NETWORK (with --control as
the untrained control of the run NETWORK), tests it, prints its average precision and writes
DIR/detector.keras, DIR/evaluation.json and DIR/results. The second tests a trained DETECTOR, such as the
first one's DIR, in the same way. The third finds objects in images with it: it writes DIR/detections.json and
images with the objects drawn in. Started again with the same arguments, each continues where it was. --svd
truncates the detector's fc6 and fc7 to lower ranks, which is faster and changes the scores.

Configs that come with the package: {names}. The fields and their defaults are in configs/detect/base.py.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = sys.argv if argv is None else argv
    values = flags.FlagValues()
    config, argv = command_line.define_config(values, given)
    help_text = f"{KERAS_MODEL_HELP}; with --images: a run of this command, or its detector.keras"
    flags.DEFINE_string("model", None, help_text, flag_values=values)
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=values)
    flags.DEFINE_string(
        "images", None, "an image or a folder of them, to find objects in", flag_values=values
    )
    flags.DEFINE_string("out", None, "with --images: the folder to write", flag_values=values)
    define_exif_orientation(values)
    define_svd(values)
    control_help = "begin as the untrained control of the run --model instead"
    flags.DEFINE_bool("control", False, control_help, flag_values=values)
    usage = USAGE.format(names=command_line.config_names("detect"))
    if (status := command_line.parse(values, argv, usage, "detect")) is not None:
        return status
    if problem := _complaint(values):
        return command_line.fail(argv[0], problem)
    command = f"rfd detect {shell_join(given[1:])}"
    action = (lambda: _find(values)) if values.images else (lambda: _train(values, config.value, command))
    return command_line.run(argv[0], action)


def _complaint(values: flags.FlagValues) -> str | None:
    """What is wrong with the flags; None if nothing is."""
    if values.images:
        needed, foreign, where = ("model", "out"), ("config", "workdir", "control"), "with"
    else:
        needed, foreign, where = ("model", "workdir"), ("out", "exif_orientation"), "without"
    if strangers := [name for name in foreign if values[name].value or values[name].present]:
        return f"--{strangers[0]} does not go {where} --images"
    if problem := command_line.missing(values, *needed):
        return problem
    return None if values.images else command_line.config_problem(values, "detect")


def _train(values: flags.FlagValues, config, command: str) -> None:
    from rfd_tf.detection.detector import is_detector
    from rfd_tf.detection.voc_detection import RESULTS, measure_detector, voc_detection
    from rfd_tf.evaluation.evaluate import open_control
    from rfd_tf.evaluation.results import text_table

    def network():
        maps = [config.detector.feature]
        return open_control(Path(values.model), maps) if values.control else open_model(values.model, maps)

    if is_detector(values.model):
        if values.control:
            raise ValueError(f"--control is of networks; {values.model} is a detector")
        # Opened once TensorFlow's devices are set up.
        opened = functools.partial(open_any_detector, values)
        result = measure_detector(config, values.workdir, opened, values.model, command)
    elif values.svd is not None:
        raise ValueError(f"--svd is for detectors, which {values.model} is not one of")
    else:
        result = voc_detection(config, values.workdir, network, command)
    if result is not None:
        print(text_table(result))
        print(f"\nResults: {Path(values.workdir) / RESULTS}")


def _find(values: flags.FlagValues) -> None:
    from rfd_tf.detection.find_objects import find_objects

    written = find_objects(open_any_detector(values), values.images, values.out)
    print(f"Detections: {written}")


if __name__ == "__main__":
    sys.exit(main())
