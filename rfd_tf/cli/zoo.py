"""`rfd zoo`: released weights from the network or from files, converted and verified."""

import sys
from collections.abc import Callable

from absl import flags

import zoo
from rfd_tf.cli import command_line

USAGE = """rfd zoo ACTION [NAME] [flags]

  list                                          the entries
  info NAME                                     an entry's model card, as Markdown
  download NAME                                 fetch an entry's file into the cache; prints its path
  convert NAME [--from_file=F] [--heads_from=G] --out=X
                                                to a .keras, .pth or .caffemodel file, by X's ending; verified
  fold --from_file=A.keras --out=X              batch norms folded into the layers before them
  rescale --from_file=A.keras --images=D --out=X  calibrate between the layers, for fine-tuning
  verify NAME [--from_file=F] --model=A.keras   compare a converted file with its source again

The cache is $RFD_TF_CACHE; RFD_TF_OFFLINE=1 forbids the network.
"""

_HEADS_FROM_HELP = (
    "a PyTorch file of heads, whose heads are converted as well; repeated for several. RFD's code writes the "
    "rotation classifier and the projection into files of their own"
)
_TOLERANCE_HELP = (
    "of the verification: absolute up to values of 1, relative to the feature's largest value beyond"
)


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    argv = list(sys.argv if argv is None else argv)
    values = flags.FlagValues()
    _define(values)
    words = [word for word in argv[1:3] if not word.startswith("-")]
    if argv[1:2] != words[:1]:
        words = []
    if (status := command_line.parse(values, [argv[0], *argv[1 + len(words) :]], USAGE)) is not None:
        return status
    if not words or words[0] not in _ACTIONS:
        problem = f"unknown action {words[0]!r}" if words else "an action is needed"
        return command_line.fail(argv[0], f"{problem}\n\n{USAGE}")
    action, needs_name, needed_flags = _ACTIONS[words[0]]
    if needs_name != (len(words) == 2):
        problem = "needs the NAME of an entry" if needs_name else f"takes no name, got {words[1]!r}"
        return command_line.fail(argv[0], f"{words[0]} {problem}")
    for flag in needed_flags:
        if not values[flag].value:
            return command_line.fail(argv[0], f"{words[0]} needs --{flag}")
    if "out" in needed_flags:
        from zoo.errors import FormatError
        from zoo.sources import kind_to_write

        try:
            kind_to_write(values.out)
        except FormatError as error:
            return command_line.fail(argv[0], f"--out={error}")
    return command_line.run(argv[0], lambda: action(*words[1:], values))


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("from_file", None, "the source: a released or a converted file", flag_values=values)
    flags.DEFINE_multi_string("heads_from", [], _HEADS_FROM_HELP, flag_values=values)
    flags.DEFINE_string("out", None, "what to write: .keras, .pth or .caffemodel", flag_values=values)
    flags.DEFINE_string("model", None, "a converted .keras file", flag_values=values)
    flags.DEFINE_string("images", None, "a folder of images, or a .npy of uint8 images", flag_values=values)
    flags.DEFINE_integer("num_images", 32, "how many of them to use", 1, flag_values=values)
    flags.DEFINE_bool("heads", False, "convert all the checkpoint's heads as well", flag_values=values)
    flags.DEFINE_bool("fold", False, "fold the batch norms as well", flag_values=values)
    flags.DEFINE_float("tolerance", 1e-4, _TOLERANCE_HELP, 0.0, flag_values=values)


def _list(values: flags.FlagValues) -> None:
    for name in zoo.list():
        print(f"{name:38}{zoo.info(name).description}")


def _info(name: str, values: flags.FlagValues) -> None:
    print(zoo.model_card(name), end="")


def _download(name: str, values: flags.FlagValues) -> None:
    print(zoo.download(name))


def _convert(name: str, values: flags.FlagValues) -> None:
    source = values.from_file or zoo.download(name)
    options = {"heads": values.heads, "heads_from": values.heads_from}
    options |= {"fold": values.fold, "tolerance": values.tolerance}
    _print(zoo.convert(name, source, values.out, **options), values.out)


def _fold(values: flags.FlagValues) -> None:
    from zoo.sources import read_keras

    folded = zoo.fold_batch_norm(read_keras(values.from_file))
    _export(folded, values)


def _rescale(values: flags.FlagValues) -> None:
    from zoo.rescaling import calibration_images
    from zoo.sources import read_keras

    model = read_keras(values.from_file)
    images = calibration_images(values.images, model.inputs[0].shape[1:3], values.num_images)
    _export(zoo.rescale(model, images), values)


def _verify(name: str, values: flags.FlagValues) -> None:
    from zoo.conversion import verify_file

    source = values.from_file or zoo.download(name)
    report = verify_file(zoo.info(name), source, values.model, values.tolerance, values.heads_from)
    print("\n".join(report.lines()))


def _export(model, values: flags.FlagValues) -> None:
    from zoo.verification import recorded_entry

    entry = recorded_entry(values.from_file)  # what is known of its images stays true
    options = {"source": values.from_file, "entry": entry and entry.name, "tolerance": values.tolerance}
    _print(zoo.export_weights(model, values.out, **options), values.out)


def _print(report, out: str) -> None:
    print("\n".join(report.lines()))
    print(f"Written: {out} and {out}.json")


# action: (function, whether it takes a NAME, flags that it needs)
_ACTIONS: dict[str, tuple[Callable, bool, tuple[str, ...]]] = {
    "list": (_list, False, ()),
    "info": (_info, True, ()),
    "download": (_download, True, ()),
    "convert": (_convert, True, ("out",)),
    "fold": (_fold, False, ("from_file", "out")),
    "rescale": (_rescale, False, ("from_file", "images", "out")),
    "verify": (_verify, True, ("model",)),
}

if __name__ == "__main__":
    sys.exit(main())
