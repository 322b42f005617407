"""`rfd rotations`: how likely every view of every image looks upright, out of sample."""

import sys
from pathlib import Path

from absl import flags

from rfd_tf.cli import command_line

USAGE = """rfd rotations --config=NAME|FILE.py --out=FILE.dat [--folds=5] [--workdir=DIR]
              [--config.FIELD=VALUE ...]

Trains a rotation classifier on all folds but one and predicts that one, for each fold in turn. Writes
FILE.dat for `rfd train --config.rotation_probabilities.path=FILE.dat`, FILE.parquet (index, file, view,
probability) and FILE.png (histogram, most and least rotatable images). Started again with the same arguments,
it continues with what is missing. DIR is FILE.dat.folds by default.

The config is one of `rfd train`: its data, preprocessing, backbone, optimizer, epochs and strategy are used.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    flag_values = flags.FlagValues()
    config, argv = command_line.define_config(flag_values, sys.argv if argv is None else argv)
    flags.DEFINE_string("out", None, "the file of probabilities", flag_values=flag_values)
    folds = flags.DEFINE_integer("folds", 5, "parts that are held out in turn", flag_values=flag_values)
    workdir = flags.DEFINE_string("workdir", None, "folder of the folds", flag_values=flag_values)
    if (status := command_line.parse(flag_values, argv, USAGE)) is not None:
        return status
    problem = command_line.config_problem(flag_values, "rotations")
    if problem := problem or command_line.missing(flag_values, "out"):
        return command_line.fail(argv[0], problem)
    path = Path(flag_values.out)
    if path.suffix in (".parquet", ".png"):
        return command_line.fail(argv[0], f"--out is the text file, such as prob.dat. Received: {path}")
    folder = workdir.value or f"{path}.folds"
    return command_line.run(argv[0], lambda: _rotations(config.value, path, folder, folds.value))


def _rotations(config, out: Path, workdir: str, folds: int) -> None:
    import pyarrow  # noqa: F401  before work is lost

    from rfd_tf import data
    from rfd_tf.runs import rotation_probabilities

    found = rotation_probabilities.predict_out_of_sample(config, workdir, folds)
    probabilities, images = found.probabilities, found.images
    image = out.with_suffix(".png")
    rotation_probabilities.draw_rotatability(image, probabilities, images)
    rotation_probabilities.write_parquet(out.with_suffix(".parquet"), probabilities, images)
    data.save_rotation_probabilities(out, probabilities)
    gamma = config.rotation_probabilities.gamma
    counts = rotation_probabilities.rotation_counts(probabilities, images.valid, gamma)
    accuracies = ", ".join(f"{accuracy:.1%}" for accuracy in found.accuracies)
    print(f"Rotation told, by fold (chance 25 %): {accuracies}")
    print(f"Effective images of each rotation (of {len(images.valid)}; gamma {gamma:g}):")
    print("  " + "  ".join(f"{90 * view}: {count:.1f}" for view, count in enumerate(counts)))
    print(f"Probabilities: {out}, {out.with_suffix('.parquet')}; image: {image}")


if __name__ == "__main__":
    sys.exit(main())
