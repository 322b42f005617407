"""Which precision a run computes in: found on the device at the start, and kept."""

import json

import keras
import pytest

from rfd_tf import precision
from rfd_tf.configs.pretrain import digits_lt
from rfd_tf.precision import bfloat16_device
from rfd_tf.runs.run import start_run

XEON = (
    "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\nprocessor\t: 1\nflags\t\t: fpu\n"
)
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"
OLD = "flags\t\t: fpu avx2 avx512f avx512_vnni\nbugs\t: bf16\n"


@pytest.fixture(autouse=True)
def policy():
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def processor(monkeypatch, tmp_path, text, capabilities=()):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision, "_gpu_capabilities", lambda: list(capabilities))


@pytest.mark.parametrize(
    ("text", "capabilities", "found"),
    [
        (XEON, [], "the processor (amx_bf16, avx512_bf16)"),
        (GRAVITON, [], "the processor (bf16)"),
        (OLD, [], None),
        ("", [], None),
        (OLD, [8.0], "the GPU"),
        (OLD, [9.0, 8.6], "the GPU"),
        (XEON, [9.0, 7.5], None),  # the GPUs compute
    ],
)
def test_what_has_bfloat16(monkeypatch, tmp_path, text, capabilities, found):
    processor(monkeypatch, tmp_path, text, capabilities)
    assert bfloat16_device() == found


def test_no_file_and_the_machine_itself(monkeypatch, tmp_path):
    assert bfloat16_device() in (None, "the GPU") or "bf16" in bfloat16_device()
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(precision, "_gpu_capabilities", list)
    assert bfloat16_device() is None


def configured():
    config = digits_lt.get_config()
    config.dtype_policy, config.deterministic = "auto", False
    return config


def test_auto_is_found_out_told_and_kept(monkeypatch, tmp_path, caplog):
    processor(monkeypatch, tmp_path, XEON)
    caplog.set_level("INFO", "absl")
    config = configured()
    run = start_run(config, tmp_path / "run")
    assert keras.config.dtype_policy().name == run.config.dtype_policy == "mixed_bfloat16"
    told = "dtype_policy=auto: mixed_bfloat16, as the processor (amx_bf16, avx512_bf16) has bfloat16"
    assert told in caplog.messages
    with run.hold_folder(config.to_dict()) as folder:
        folder.claim()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype_policy"] == "mixed_bfloat16"

    processor(monkeypatch, tmp_path, OLD)  # it goes on elsewhere
    config = configured()
    run = start_run(config, tmp_path / "run")
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    with run.hold_folder(config.to_dict()) as folder:
        folder.claim()  # not another run's
    assert start_run(configured(), tmp_path / "new").config.dtype_policy == "float32"
    assert "dtype_policy=auto: float32, as nothing here has bfloat16" in caplog.messages


def test_a_damaged_config_is_not_in_the_way(monkeypatch, tmp_path):
    processor(monkeypatch, tmp_path, OLD)
    for text in ("[]", "{", '{"dtype_policy": 3}'):
        (tmp_path / "config.json").write_text(text)
        assert start_run(configured(), tmp_path).config.dtype_policy == "float32"
