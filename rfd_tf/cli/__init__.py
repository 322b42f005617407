"""`rfd COMMAND ...`: runs one of the commands, importing only that one."""

import importlib
import os
import signal
import sys

# One line each; `rfd --help` prints them without importing anything heavy.
COMMANDS = {
    "prepare": "decode and resize a collection of images once, for quicker training",
    "train": "pretrain a backbone by rotation feature decoupling, or train on labels",
    "rotations": "find the rotation-ambiguous images, out of sample",
    "evaluate": "measure a model's features by one of the field's protocols",
    "detect": "train Fast R-CNN on PASCAL VOC and test it, or find objects in images",
    "sweep": "run a table of experiments over seeds, and tabulate the results",
    "report": "show what a run or a model has learned: an HTML page, or a table",
    "extract": "write the features of a collection of images",
    "export": "write a model as SavedModel, ONNX and .keras, proven equal",
    "zoo": "list, download, convert and verify released weights",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: rfd COMMAND [flags]", "", *lines, "", "rfd COMMAND --help lists its flags."])


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv[1]` names; the exit status."""
    argv = sys.argv if argv is None else argv
    name = argv[1] if len(argv) > 1 else "--help"
    if name in ("-h", "--help", "help", "--helpshort", "--helpfull"):
        print(usage())
        return 0 if len(argv) > 1 else 2
    if name not in COMMANDS:
        print(f"rfd: unknown command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        status = importlib.import_module(f"rfd_tf.cli.{name}").main([f"rfd {name}", *argv[2:]])
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
