import subprocess
import sys

import pytest

from rfd_tf import cli
from tests.training.processes import ROOT


def rfd(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "rfd_tf.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )


def test_help_lists_every_command_with_one_line(capsys):
    assert cli.main(["rfd", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, text in cli.COMMANDS.items():
        assert sum(line.strip().startswith(name) and line.endswith(text) for line in lines) == 1


def test_every_listed_command_exists():
    for name in cli.COMMANDS:
        assert (ROOT / "rfd_tf" / "cli" / f"{name}.py").exists()


def test_unknown_and_missing_commands(capsys):
    assert cli.main(["rfd", "trian"]) == 2
    assert "unknown command 'trian'" in capsys.readouterr().err
    assert cli.main(["rfd"]) == 2


def test_help_of_train_loads_no_framework():
    code = (
        "import sys; from rfd_tf import cli; cli.main(['rfd', 'train', '--help']);"
        "print([m for m in ('tensorflow', 'keras', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--config" in done.stdout
    assert "--workdir" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=digits_lt"], "--workdir is needed"),
        (["--workdir=/tmp/x"], "--config is needed"),
        (["--config=nope", "--workdir=/tmp/x"], "nope"),
        (["--config=digits_lt", "--workdir=/tmp/x", "--config.batch_sise=3"], "batch_sise"),
        (["--config=digits_lt", "--workdir=/tmp/x", "--config.data.rot=3"], "rot"),
        (["--config=digits_lt", "--workdir=/tmp/x", "--config.batch_size=many"], "many"),
        (["--config=digits_lt", "--workdir=/tmp/x", "--wrkdir=3"], "wrkdir"),
        (["--config=digits_lt", "--workdir=/tmp/x", "stray"], "stray"),
    ],
)
def test_bad_flags_are_refused_in_one_clear_message(arguments, message, capsys):
    assert cli.main(["rfd", "train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rfd train: ")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.strategy=tpu", "`strategy` must be one of"),
        ("--config.data.source=folder", "folder"),
        ("--config.batch_size=10000", "fewer than one batch"),
        ("--config.backbone.name=vgg", "Unknown backbone 'vgg'"),
        ("--config.backbone.feature=conv9", "no feature 'conv9'"),
        ("--config.method.rotation_head=hinge", "method.rotation_head"),
        ("--config.rotation_probabilities.path=/nowhere/prob.dat", "/nowhere/prob.dat"),
        ("--config.optimizer.milestones=()", "milestones"),
        ("--config.data.on_error=ignore", "on_error"),
        ("--config.data.long_tail.profile=linear", "linear"),
        ("--config.init=/nowhere/backbone.keras", "/nowhere/backbone.keras"),
        ("--config.dtype_policy=mixed_float16", "mixed_float16"),
        ("--config.epochs=0", "epochs=0"),
        ("--config.knn.k=0", "k=0"),
        ("--config.method.temperature_swing=(0.1,1.0)", "temperature_swing"),
        ("--config.method.temperature_swing=(1.0,0.1,10)", "0 < low <= high"),
        ("--config.knn.feature=block9", "Unknown feature 'block9'"),
        ("--config.preprocessing.train=shuffle", "shuffle"),
    ],
)
def test_bad_values_are_refused_before_training(override, message, tmp_path, capsys):
    """In this process: what is refused must be refused before TensorFlow is set up for a run."""
    arguments = [
        "--config=digits_lt",
        f"--workdir={tmp_path / 'run'}",
        "--config.deterministic=False",
        override,
    ]
    assert cli.main(["rfd", "train", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "config.json").exists()  # the folder stays free


def test_python_dash_m_runs_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "rfd_tf.cli.train", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0
    assert "rfd train --config" in done.stdout


def test_summary_of_a_run_that_has_not_finished(tmp_path, capsys):
    assert cli.main(["rfd", "report", f"--workdir={tmp_path}", "--summary"]) == 1
    assert "has not finished" in capsys.readouterr().err


def test_output_that_nobody_reads_on_is_no_error():
    script = f"{sys.executable} -m rfd_tf.cli train --help --config=image_folder | head -n 1"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("rfd train --config=")
    assert "Error" not in run.stderr
