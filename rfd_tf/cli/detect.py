"""`rfd detect`: Fast R-CNN on PASCAL VOC, or a trained detector on images of yours."""

import dataclasses
import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line
from rfd_tf.cli.models import KERAS_MODEL_HELP, define_exif_orientation, open_model
from rfd_tf.terminal import shell_join

USAGE = """rfd detect --model=NETWORK --config=NAME|FILE.py --workdir=DIR [--control]
           [--config.FIELD=VALUE ...]
rfd detect --model=DETECTOR --images=FOLDER --out=DIR

The first proposes regions, trains a detector that begins as the pretrained network NETWORK (with --control as
the untrained control of the run NETWORK), tests it, prints its average precision and writes
DIR/detector.keras, DIR/evaluation.json and DIR/results. The second finds objects in images with DETECTOR,
such as the first one's DIR: it writes DIR/detections.json and images with the objects drawn in. Started
again with the same arguments, either continues where it was.

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
    from rfd_tf.detection.voc_detection import RESULTS, voc_detection
    from rfd_tf.evaluation.evaluate import open_control
    from rfd_tf.evaluation.results import text_table

    def network():
        maps = [config.detector.feature]
        return open_control(Path(values.model), maps) if values.control else open_model(values.model, maps)

    result = voc_detection(config, values.workdir, network, command)
    if result is not None:
        print(text_table(result))
        print(f"\nResults: {Path(values.workdir) / RESULTS}")


def _find(values: flags.FlagValues) -> None:
    from rfd_tf.detection.detector import open_detector
    from rfd_tf.detection.find_objects import find_objects

    detector = open_detector(values.model)
    if values.exif_orientation is not None:
        detector = dataclasses.replace(detector, exif_orientation=values.exif_orientation)
    written = find_objects(detector, values.images, values.out)
    print(f"Detections: {written}")


if __name__ == "__main__":
    sys.exit(main())
