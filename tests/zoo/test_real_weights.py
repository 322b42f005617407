"""The real legacy checkpoint, in a process in which PyTorch cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import zoo
from tests.zoo.test_conversion import assert_states_equal
from zoo.torch_checkpoint import read_state_dict

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'")

sys.meta_path.insert(0, NoTorch())
import numpy as np, zoo
from zoo.conversion import load_file
entry = zoo.info("cifar_resnet20")
model, report = load_file(entry, sys.argv[1], heads=True)
arrays = np.load(sys.argv[2])
predicted = model.predict(entry.preprocessing(arrays["images"]), verbose=0)["logits"].argmax(-1)
accuracy = float((predicted == arrays["labels"]).mean())
print(json.dumps([accuracy, len(predicted), report.compared_with]))
"""


def test_resnet20_without_pytorch_classifies_cifar10(test_data):
    weights = test_data / "weights" / "torch_legacy" / "resnet20-12fca82f.th"
    arguments = [str(weights), str(test_data / "cifar10_lossless_test.npz")]
    out = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert out.returncode == 0, out.stderr
    accuracy, count, compared_with = json.loads(out.stdout.splitlines()[-1])
    assert count == 932
    assert accuracy >= 0.91
    assert compared_with.startswith("NumPy")


def test_resnet20_round_trip_is_bit_exact(test_data, tmp_path):
    weights = test_data / "weights" / "torch_legacy" / "resnet20-12fca82f.th"
    zoo.convert("cifar_resnet20", weights, tmp_path / "a.keras", heads=True)
    zoo.convert("cifar_resnet20", tmp_path / "a.keras", tmp_path / "b.pth")
    assert_states_equal(read_state_dict(tmp_path / "b.pth"), read_state_dict(weights))
    folded = zoo.convert("cifar_resnet20", weights, tmp_path / "c.keras", heads=True, fold=True)
    assert max(d.max_abs_difference for d in folded.differences.values()) < 1e-4


def test_released_vocabulary_of_the_real_file(test_data):
    """Its record of accuracy is a plain number beside the tensors."""
    from zoo.torch_checkpoint import read_checkpoint

    content = read_checkpoint(test_data / "weights" / "torch_legacy" / "resnet20-12fca82f.th")
    np.testing.assert_allclose(content["best_prec1"], 91.78, atol=0.01)
