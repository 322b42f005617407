"""A memory bank whose rows are dealt to the replicas: what it computes and learns, and how it is restored."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from rfd_tf.callbacks import TrainingCheckpoint
from rfd_tf.layers import MemoryBank
from tests.contract import to_numpy
from tests.distribution import sharded_bank as script
from tests.distribution.cluster import two_worker_configs

ROOT = Path(__file__).parents[2]
LIMIT = 600
N, D, BATCH, K, STEPS = script.N, script.D, script.BATCH, script.K, script.STEPS


def start(folder: Path, strategy: str, *arguments: str, tf_config: dict | None = None) -> subprocess.Popen:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("TF_CONFIG", None)
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    command = [sys.executable, "-m", "tests.distribution.sharded_bank", str(folder), strategy, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*processes: subprocess.Popen) -> None:
    try:
        for process in processes:
            output, _ = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirrored")
    finish(start(folder, "mirrored"))
    return folder


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    (folder / "worker-1").mkdir()
    finish(*(start(folder, "multi_worker", tf_config=each) for each in two_worker_configs()))
    return folder


def found_by(folder: Path, name: str = "found.npz") -> dict[str, np.ndarray]:
    files = [folder / name, folder / "worker-1" / name]
    return {key: value for file in files if file.exists() for key, value in np.load(file).items()}


def whole(found: dict[str, np.ndarray], prefix: str) -> np.ndarray:
    """The table [N, D] of two shares: row i is row i // 2 of share i mod 2."""
    table = np.empty((N, D))
    table[0::2], table[1::2] = found[f"{prefix}share0"], found[f"{prefix}share1"][: N // 2]
    return table


BOTH = ["mirrored", pytest.param("workers", marks=pytest.mark.slow)]


@pytest.fixture(params=BOTH)
def found(request):
    return found_by(request.getfixturevalue(request.param))


def test_shares_have_half_of_the_rows_and_begin_differently(found):
    shares = found["drawn_share0"], found["drawn_share1"]
    assert {share.shape for share in shares} == {(7, D)}
    assert np.abs(shares[0] - shares[1]).min() > 0
    bound = 1 / np.sqrt(D / 3)
    assert all(np.abs(share).max() <= bound and share.std() > bound / 3 for share in shares)


def test_own_rows_and_draws_of_the_own_share(found):
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(BATCH, D))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    index, negatives = rng.permutation(N)[:BATCH], rng.integers(0, N, (BATCH, K))
    table = script.first_rows()
    for replica in range(2):
        part = slice(replica * 2, replica * 2 + 2)
        share = table[replica::2]
        rows = np.concatenate([table[index[part]][:, None], share[negatives[part] * len(share) // N]], axis=1)
        expected = np.einsum("bkd,bd->bk", rows, embeddings[part]) / 0.5
        np.testing.assert_allclose(found[f"similarities{replica}"], expected, rtol=1e-10, atol=1e-12)
    mixed = 0.25 * table[index] + 0.75 * embeddings
    table[index] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    np.testing.assert_allclose(whole(found, "updated_"), table, rtol=1e-10, atol=1e-12)


def rows_in(table: np.ndarray) -> set[tuple]:
    return {tuple(row) for row in table}


def test_a_sample_is_of_what_the_process_keeps(mirrored):
    found = found_by(mirrored)
    assert len(rows_in(found["sample"])) == 6
    assert rows_in(found["sample"]) <= rows_in(whole(found, "updated_"))


@pytest.mark.slow
def test_a_workers_sample_is_of_its_own_share(workers):
    of_second = np.load(workers / "worker-1" / "found.npz")["sample"]
    assert rows_in(of_second) <= rows_in(whole(found_by(workers), "updated_")[1::2])


def test_what_travels_and_is_computed_does_not_grow_with_the_bank(mirrored):
    """A replicated bank's neither: no replica reads or copies its table of a million rows."""
    assert np.load(mirrored / "found.npz")["largest_tensors"].max() < 100


def test_trains_as_a_replicated_bank_does_where_the_instance_loss_has_no_weight(found):
    """The rows that are written are the same; what is drawn differs, and so would the instance loss."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    script.in_double_precision()
    try:
        model = script.model_of("replicated")
        model.memory_bank.rows.assign(script.first_rows())
        by_step = zip(*[script.batches()] * 2, strict=True)
        for parts in by_step:
            batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            model.train_on_batch(batch)
        expected = to_numpy(model.memory_bank.rows)
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
    assert np.abs(expected - script.first_rows()).max() > 0.1
    np.testing.assert_allclose(whole(found, "trained_"), expected, rtol=1e-6, atol=1e-8)


def test_restored_on_as_many_replicas(mirrored):
    finish(start(mirrored, "mirrored", str(STEPS)))
    found, restored = found_by(mirrored), found_by(mirrored, "restored.npz")
    for share in ("share0", "share1"):
        np.testing.assert_array_equal(restored[share], found[f"trained_{share}"])


def restored_here(folder: Path, bank: str) -> np.ndarray:
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    script.in_double_precision()
    try:
        model = script.model_of(bank)
        others = [folder / "worker-1"]
        TrainingCheckpoint(folder, STEPS, shared_directories=others).restore(model, STEPS)
        return to_numpy(model.memory_bank.rows)
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("bank", ["replicated", "sharded"])
@pytest.mark.parametrize("written_by", BOTH)
def test_restored_on_one_replica(written_by, bank, request):
    folder = request.getfixturevalue(written_by)
    np.testing.assert_array_equal(restored_here(folder, bank), whole(found_by(folder), "trained_"))


def test_one_replicas_table_is_dealt_to_two(tmp_path):
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    script.in_double_precision()
    try:
        model = script.model_of("sharded")
        model.memory_bank.rows.assign(script.first_rows())
        model.optimizer.iterations.assign(STEPS)
        checkpoint = TrainingCheckpoint(tmp_path, STEPS)
        checkpoint.set_model(model)
        checkpoint.save()
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
    finish(start(tmp_path, "mirrored", str(STEPS)))
    restored = found_by(tmp_path, "restored.npz")
    np.testing.assert_array_equal(whole(restored, ""), script.first_rows())


@pytest.mark.slow
def test_a_share_that_is_on_another_disk_is_named(workers, tmp_path):
    (tmp_path / "step-0000000005").symlink_to(workers / "step-0000000005")
    with pytest.raises(ValueError, match="dealt to 2 replicas, and the rows of replica 1 are in another"):
        restored_here(tmp_path, "sharded")


def test_arguments():
    with pytest.raises(ValueError, match="rows_dtype"):
        MemoryBank(4, 2, rows_dtype="float16")


def test_rows_in_bfloat16():
    bank = MemoryBank(20, 6, momentum=0.5, rows_dtype="bfloat16")
    bank.build()
    rows = np.asarray(to_numpy(bank.rows), "float32")
    z = np.eye(6, dtype="float32")[:3]
    np.testing.assert_allclose(to_numpy(bank(z))[:, 4], rows[4, :3] / 0.07, rtol=1e-6)
    assert to_numpy(bank(z, np.array([[1], [2], [3]]))).dtype == np.float32
    bank.update(z, np.array([1, 2, 3]))
    mixed = 0.5 * rows[1:4] + 0.5 * z
    expected = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(to_numpy(bank.rows), "float32")[1:4], expected, atol=2**-8)
