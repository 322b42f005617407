"""Every command that writes, small enough to be killed or starved many times.

A command that joins `rfd` joins the table `COMMANDS` at the end.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rfd_tf import cli
from rfd_tf.detection.detector import save_detector
from tests.data.images import write
from tests.detection import toy
from tests.detection.tiny_detector import tiny_detector
from tests.report import runs
from tests.training import processes
from tests.zoo.mega_server import MegaServer
from tests.zoo.released import resnet_state, save_torch

ROOT = Path(__file__).parents[2]
PLAIN = np.random.default_rng(0).bytes(400_003)  # what is downloaded
_PROPOSE = """
import sys, pathlib
from rfd_tf.detection.proposals import ProposalError, SelectiveSearch, propose
if __name__ == "__main__":
    images = sorted(pathlib.Path(sys.argv[1]).glob("*.png"))
    try:
        propose(images, sys.argv[2], SelectiveSearch("fast"), 1)
    except OSError as error:
        sys.exit(f"propose: {error}")
"""
_SWEEP = """
from ml_collections import ConfigDict

def get_config():
    knn = (
        "evaluate --model={run} --protocol=knn --config=evaluate_folder --workdir={dir} "
        "--config.data.root={images} --config.validation.root={validation} --config.seed={seed} "
        "--config.data.split= --config.validation.split= --config.batch_size=8 "
    )
    variants = {"five": (knn + "--config.knn.k=(5,)",), "six": (knn + "--config.knn.k=(6,)",)}
    folders = {"run": "", "images": "", "validation": ""}
    return ConfigDict({"kind": "sweep", "seeds": (0,), "variants": variants, **folders})
"""
_DOWNLOAD = """
import sys, zoo
from rfd_tf import cli
from tests.zoo.released import register_narrow
register_narrow(links=(sys.argv[1],))
sys.exit(cli.main(["rfd", "zoo", "download", "narrow"]))
"""


@dataclasses.dataclass
class World:
    """What the commands work on.

    Attributes:
        folder: holds the run, the images, a checkpoint.
        server: of the download.
    """

    folder: Path
    server: MegaServer

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def images(self) -> Path:
        return self.folder / "pictures"


def make_world(folder: Path, server: MegaServer) -> World:
    """Build everything."""
    world = World(folder, server)
    runs.write_images(world.images, {"blue": 24, "white": 24})
    runs.write_images(folder / "validation", {"blue": 6, "white": 6}, seed=1)
    runs.write_run(world.run, world.images, folder / "validation")
    save_torch(folder / "resnet20.th", resnet_state())
    files = f"--from_file={folder / 'resnet20.th'}", f"--out={folder / 'resnet20.keras'}"
    assert cli.main(["rfd", "zoo", "convert", "cifar_resnet20", *files]) == 0
    toy.write_network(toy.write_devkit(folder / "devkit") / "network.keras")
    save_detector(tiny_detector(), folder / "detector.keras")
    (folder / "sweep.py").write_text(_SWEEP)
    write(folder / "scenes", *(f"{number:02}.png" for number in range(16)))
    np.savez(folder / "images.npz", images=_images(240))
    return world


def _images(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 20, 20, 3), dtype="uint8")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        arguments: (world, folder to write to) -> what Python is to run.
        result: the path, below the folder, that is there in the end.
        begin_with: (world, folder) -> puts there what the command is to work on.
    """

    arguments: Callable[[World, Path], list]
    result: str
    begin_with: Callable[[World, Path], object] = lambda world, out: None


def start(command: Command, world: World, out: Path) -> subprocess.Popen:
    """The command in a process of its own, on what its folder has or begins with."""
    if not out.exists():
        command.begin_with(world, out)
    environment = {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "RFD_TF_CACHE": str(out),
        "RFD_TF_MEGA_API": world.server.api,
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *map(str, command.arguments(world, out))],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _rfd(*arguments) -> list:
    return ["-m", "rfd_tf.cli", *arguments]


def _train(world: World, out: Path) -> list:
    return processes.command(out / "trained", "--config.epochs=1", "--config.tensorboard=True")[1:]


def _classify(world: World, out: Path) -> list:
    flags = ["--config=classify_folder", f"--workdir={out / 'classified'}", "--config.epochs=2"]
    flags += [
        f"--config.data.root={world.images}",
        f"--config.validation.root={world.folder / 'validation'}",
    ]
    flags += ["--config.preprocessing.image_size=16", "--config.preprocessing.resize=16"]
    flags += ["--config.backbone.name=resnet8", "--config.backbone.width=4", "--config.batch_size=8"]
    return _rfd("train", *flags)


def _evaluate(world: World, out: Path) -> list:
    flags = [
        f"--model={world.run}",
        "--protocol=linear",
        "--config=evaluate_folder",
        f"--workdir={out / 'linear'}",
    ]
    flags += [
        f"--config.data.root={world.images}",
        f"--config.validation.root={world.folder / 'validation'}",
    ]
    flags += [
        "--config.data.split=",
        "--config.validation.split=",
        "--config.batch_size=8",
        "--config.epochs=2",
    ]
    return _rfd("evaluate", *flags, "--config.features=('block1','features')")


def _rotations(world: World, out: Path) -> list:
    flags = ["--config=image_folder", f"--out={out / 'prob.dat'}", "--folds=2"]
    flags += [f"--config.data.root={world.images}", "--config.epochs=2", "--config.batch_size=8"]
    flags += ["--config.preprocessing.image_size=16", "--config.preprocessing.resize=16"]
    flags += ["--config.backbone.name=resnet8", "--config.backbone.features=('pool',)"]
    flags += ["--config.backbone.feature=pool", "--config.backbone.width=4", "--config.tensorboard=False"]
    return _rfd("rotations", *flags)


def _sweep(world: World, out: Path) -> list:
    folders = {"run": world.run, "pictures": world.images, "validation": world.folder / "validation"}
    flags = [f"--config.{name}={folder}" for name, folder in folders.items()]
    return _rfd("sweep", f"--config={world.folder / 'sweep.py'}", f"--workdir={out / 'sweep'}", *flags)


def _extract(kind: str):
    def arguments(world: World, out: Path) -> list:
        flags = [f"--model={world.run}", f"--images={world.folder / 'images.npz'}", f"--out={out / kind}"]
        return _rfd("extract", *flags, f"--format={kind}", "--shard_size=10", "--batch_size=2")

    return arguments


COMMANDS: dict[str, Command] = {
    "train": Command(_train, "trained/backbone.keras"),
    "download": Command(lambda world, out: ["-c", _DOWNLOAD, world.server.link()], "zoo/narrow/narrow.bin"),
    "convert": Command(
        lambda world, out: _rfd(
            *("zoo", "convert", "cifar_resnet20", f"--from_file={world.folder / 'resnet20.th'}"),
            f"--out={out / 'resnet20.keras'}",
        ),
        "resnet20.keras",
    ),
    "export": Command(
        lambda world, out: _rfd(
            *("export", f"--model={world.run}", f"--out={out / 'net'}", "--num_images=2", "--overwrite")
        ),
        "net/parity.json",
    ),
    "prepare": Command(
        lambda world, out: _rfd(
            *("prepare", f"--root={world.images}", f"--out={out / 'prepared'}", "--shard_size=4")
        ),
        "prepared/index.npz",
    ),
    "extract npz": Command(_extract("npz"), "npz/manifest.json"),
    "extract parquet": Command(_extract("parquet"), "parquet/manifest.json"),
    "propose": Command(
        lambda world, out: ["-c", _PROPOSE, world.folder / "scenes", out / "proposals"], "proposals"
    ),
    "evaluate": Command(_evaluate, "linear/evaluation.json"),
    "classify": Command(_classify, "classified/evaluation.json"),
    "summary": Command(
        lambda world, out: _rfd("report", f"--workdir={out / 'run'}", "--summary"),
        "run/summary.png",
        lambda world, out: shutil.copytree(world.run, out / "run"),
    ),
    "fold": Command(
        lambda world, out: _rfd(
            "zoo", "fold", f"--from_file={world.folder / 'resnet20.keras'}", f"--out={out / 'folded.keras'}"
        ),
        "folded.keras",
    ),
    "rotations": Command(_rotations, "prob.dat"),
    "detect": Command(
        lambda world, out: _rfd("detect", *toy.arguments(world.folder / "devkit", out / "detector")),
        "detector/evaluation.json",
    ),
    "find objects": Command(
        lambda world, out: _rfd(
            *("detect", f"--model={world.folder / 'detector.keras'}", f"--images={world.folder / 'scenes'}"),
            f"--out={out / 'found'}",
        ),
        "found/detections.json",
    ),
    "sweep": Command(_sweep, "sweep/table.csv"),
    "report": Command(
        lambda world, out: _rfd(
            "report", f"--workdir={world.run}", f"--out={out / 'report.html'}", "--nocontrol"
        ),
        "report.html",
    ),
}
