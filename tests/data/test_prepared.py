"""`rfd prepare`: what it writes is what training would have seen, and it can be killed."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from rfd_tf import cli, data
from rfd_tf.data import (
    BadImageError,
    ImageFolder,
    PreparedSource,
    PrepareOptions,
    Preprocessing,
    prepare,
    prepared,
)
from rfd_tf.data.source import image_name
from rfd_tf.features import load_features
from tests.commands.test_rotations import TINY
from tests.data.datasets import training_dataset
from tests.data.images import decoded, encoded, oriented, random_image, write
from tests.training import processes
from tests.training.processes import LIMIT, ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write(root, *(f"{n % 2}/{n:02}.{'png' if n % 5 == 0 else 'jpg'}" for n in range(12)))
    (root / "1" / "turned.jpg").write_bytes(oriented(random_image(60, 40, seed=20), 6))
    return root


@pytest.fixture(scope="module")
def source(folder):
    return ImageFolder(folder)


def fetched(source, index):
    return source.fetch(tf.constant(index, tf.int64)).numpy()


def pixels(source, index):
    return data.augmentation.decode(source.fetch(tf.constant(index, tf.int64))).numpy()


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_training_sees_what_it_saw_of_the_originals(source, tmp_path, form):
    """Bit for bit where nothing is resized or encoded again: raw pixels, and JPEGs that are kept."""
    if form == "jpeg":
        jpegs = [n for n in range(len(source)) if source.files[n].endswith(".jpg")][:-1]
        source = data.Subset(source, jpegs)
    prepare(source, tmp_path, PrepareOptions(0, form, shard_size=5))
    opened = PreparedSource(tmp_path)
    recipe = Preprocessing(12, resize=14)
    options = {"batch_size": 4, "seed": 3, "epochs": 1, "num_negatives": 3, "with_labels": True}
    both = [training_dataset(of, recipe, **options).as_numpy_iterator() for of in (source, opened)]
    for (theirs, labels), (mine, mine_labels) in zip(*both, strict=True):
        np.testing.assert_array_equal(mine_labels, labels)
        turned = np.array([image_name(source, n).endswith("turned.jpg") for n in theirs["index"]])
        for name, values in theirs.items():
            assert mine[name].dtype == values.dtype
            np.testing.assert_array_equal(mine[name][~turned], values[~turned])
            # Turned before resizing, not after it: to rounding.
            np.testing.assert_allclose(mine[name][turned], values[turned], atol=2e-2)


def test_names_labels_and_sizes_are_kept(source, tmp_path):
    assert prepare(source, tmp_path, PrepareOptions(30, "raw", shard_size=5), {"root": "x"}) == {}
    opened = PreparedSource(tmp_path)
    assert len(opened) == len(source) == 13
    assert opened.labels.tolist() == source.labels.tolist()
    assert (opened.class_names, opened.num_classes) == (source.class_names, 2)
    assert [image_name(opened, n) for n in range(13)] == list(source.files)
    assert source.files[7] in opened.describe(7)
    assert {image.shape for image in (pixels(opened, n) for n in range(12))} == {(30, 37, 3)}
    assert pixels(opened, 12).shape == (45, 30, 3)  # upright
    for index in range(3):
        image = Image.fromarray(decoded(fetched(source, index)))
        expected = np.asarray(image.resize((37, 30), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(pixels(opened, index) - expected).max() <= 1
    recipe = Preprocessing(24, resize=30)  # evaluation resizes to the same short side: bit for bit
    for index in (0, 3, 12):
        of_both = [recipe.eval_image(tf.constant(fetched(of, index))) for of in (source, opened)]
        np.testing.assert_array_equal(*of_both)
    settings = json.loads((tmp_path / "prepared.json").read_text())
    assert [shard["file"] for shard in settings["shards"]] == [
        f"images-0000{n}-of-00003.array_record" for n in range(3)
    ]
    assert settings["made_from"] == {"root": "x"}
    assert not list(tmp_path.glob(".*.partial*"))


def test_nothing_is_enlarged_and_quality_counts(source, tmp_path):
    for quality in (95, 10):
        prepare(source, tmp_path / str(quality), PrepareOptions(39, quality=quality))
    good, bad = (PreparedSource(tmp_path / str(quality)) for quality in (95, 10))
    assert pixels(good, 3).shape == (39, 48, 3)
    assert len(fetched(good, 3)) > 1.5 * len(fetched(bad, 3))
    prepare(source, tmp_path / "large", PrepareOptions(1000))
    large = PreparedSource(tmp_path / "large")
    for index, file in enumerate(source.files[:12]):
        assert pixels(large, index).shape == (40, 50, 3)
        assert (fetched(large, index) == fetched(source, index)) == file.endswith(".jpg")
    # Kept as it was, it would be turned when it is read.
    assert decoded(fetched(large, 12)).shape == (60, 40, 3)
    prepare(source, tmp_path / "stored", PrepareOptions(1000, exif_orientation=False))
    stored = fetched(PreparedSource(tmp_path / "stored"), 12)
    assert decoded(stored).shape == (40, 60, 3)
    assert Image.open(io.BytesIO(stored)).getexif().get(274) is None


def test_arrays_and_unlabelled_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 9, 11, 3), dtype="uint8")
    images[2, -1] = 0  # zeros at the end
    prepare(data.ArraySource(images, name="a.npz"), tmp_path, PrepareOptions(format="raw", shard_size=3))
    opened = PreparedSource(tmp_path)
    assert opened.labels is None
    assert not opened.encoded
    np.testing.assert_array_equal([fetched(opened, n) for n in range(7)], images)
    assert image_name(opened, 4) == "a.npz[4]"


@pytest.mark.parametrize("form", ["raw", "jpeg"])
def test_bad_images_by_the_rule_of_the_sources(folder, tmp_path, form):
    (root := tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.png"):
        (root / name).write_bytes(encoded(random_image(seed=ord(name[0]))))
    (root / "b.jpg").write_bytes(encoded(random_image())[:500])
    (root / "c.jpg").write_bytes(b"")
    source, out = data.FlatFolder(root), tmp_path / "out"
    options = {"format": form, "shard_size": 2}
    with pytest.raises(BadImageError, match=r"b\.jpg: .*JPEG"):
        prepare(source, out, PrepareOptions(**options))
    with pytest.raises(ValueError, match="not whole: `rfd prepare` was stopped"):
        PreparedSource(out)
    skipped = prepare(source, out, PrepareOptions(**options, on_error="skip"))
    assert list(skipped) == [1, 2]
    with pytest.raises(BadImageError, match=r"b\.jpg.* on_error=.skip."):
        PreparedSource(out)
    with pytest.raises(BadImageError, match=r"b\.jpg: "):
        prepare(source, out, PrepareOptions(**options))
    opened = PreparedSource(out, on_error="skip")
    valid, listed = data.valid_indices(opened)
    assert valid.tolist() == [0, 3]
    assert [reason for _, reason in listed] == list(skipped.values())
    assert data.valid_indices(data.Subset(opened, [3, 2]))[0].tolist() == [0]
    assert skipped[1] in str(data.first_bad_image(opened))
    np.testing.assert_array_equal(pixels(opened, 3), decoded(fetched(source, 3)))
    (root / "a.jpg").write_bytes(b"")
    (root / "d.png").write_bytes(b"")
    with pytest.raises(BadImageError, match="None of the 4"):
        prepare(source, tmp_path / "none", PrepareOptions(**options, on_error="skip"))


def test_a_lost_disk_is_no_list_of_bad_images(tmp_path):
    source = data.FlatFolder(write(tmp_path / "images", "1.jpg", "2.jpg"))
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(OSError, match=r"None of 2 images can be read, as the first: .*No such file"):
        prepare(source, tmp_path / "out", PrepareOptions(on_error="skip"))
    assert not list((tmp_path / "out").glob("images-*"))


def test_folders_of_something_else_are_refused(source, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no prepared\.json: .*`rfd prepare` wrote"):
        PreparedSource(tmp_path)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds 'mine\.txt' and no prepared\.json"):
        prepare(source, tmp_path)
    out = tmp_path / "out"
    prepare(source, out, PrepareOptions(20))
    with pytest.raises(ValueError, match=r"prepared otherwise\. short_side: 20 there, 30 now"):
        prepare(source, out, PrepareOptions(30))
    with pytest.raises(ValueError, match="images: 13 there, 2 now"):
        prepare(data.Subset(source, [0, 1]), out, PrepareOptions(20))
    (shard,) = out.glob("images-*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"{shard.name} is damaged: it does not have {len(whole)} bytes"):
        PreparedSource(out)
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name} is missing"):
        PreparedSource(out)
    prepare(source, out, PrepareOptions(20))
    assert shard.read_bytes() == whole
    shard.write_bytes(whole[:100])
    with pytest.raises(ValueError, match=f"{shard.name} is damaged"):
        prepare(source, out, PrepareOptions(20))
    shard.write_bytes(whole)
    (out / "index.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"index\.npz is damaged or missing"):
        PreparedSource(out)
    for text in ("{", "[]", '{"version": 2}', '{"version": 1}'):
        (out / "prepared.json").write_text(text)
        with pytest.raises(ValueError, match=r"prepared\.json: not written by `rfd prepare`"):
            PreparedSource(out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short_side": -1}, "`short_side` must be at least 0. Received: -1"),
        ({"quality": 0}, "`quality` must be at least 1"),
        ({"quality": 101}, "`quality` must be at most 100. Received: quality=101"),
        ({"shard_size": 0}, "`shard_size` must be at least 1"),
        ({"format": "png"}, "`format` must be one of jpeg, raw. Received: 'png'"),
        ({"on_error": "stop"}, "`on_error` must be one of raise, skip. Received: 'stop'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        PrepareOptions(**options)


def test_fingerprint_is_of_the_content(folder, source, tmp_path):
    prints = set()
    for name, options in (("a", PrepareOptions(20)), ("b", PrepareOptions(20)), ("c", PrepareOptions(21))):
        prepare(source, tmp_path / name, options)
        prints.add(PreparedSource(tmp_path / name).fingerprint(np.arange(3)))
    assert len(prints) == 2


def test_found_by_every_way_to_open_images(source, tmp_path):
    for split in ("train", "val"):
        prepare(source, tmp_path / split, PrepareOptions(20))
    for opened in (
        data.open_source("prepared", tmp_path, "val"),
        data.open_source("prepared", tmp_path / "val"),
        data.open_images(tmp_path / "train"),
    ):
        assert isinstance(opened, PreparedSource)
    assert data.source_kind(tmp_path) == data.source_kind(tmp_path / "val") == "prepared"
    with pytest.raises(FileNotFoundError, match="split='test'"):
        data.open_source("prepared", tmp_path, "test")


def test_killed_stopped_and_continued(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (400, 64, 64, 3), dtype="uint8")
    np.savez(tmp_path / "images.npz", train_images=pixels)
    out = tmp_path / "out"
    arguments = ["prepare", f"--root={tmp_path / 'images.npz'}", f"--out={out}", "--format=raw"]
    arguments += ["--shard_size=4"]
    command = [sys.executable, "-m", "rfd_tf.cli", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + LIMIT
    while process.poll() is None and len(list(out.glob("images-*"))) < 3:
        assert time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "index.npz").exists()
    (out / ".images-00099-of-00100.1.partial.array_record").write_text("what a kill may leave")
    before = {path: path.stat().st_mtime_ns for path in out.glob("images-*")}

    seen, as_record = [], prepared._record

    def note(content):
        seen.append(1)
        if len(seen) == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return as_record(content)

    monkeypatch.setattr(prepared, "_record", note)
    source = data.load_npz(tmp_path / "images.npz", labels_key=None)
    stopped = f"SIGTERM: {len(before) + 2} of 100 shards are written"
    with pytest.raises(prepared.PrepareStopped, match=stopped):
        prepare(source, out, PrepareOptions(format="raw", shard_size=4))
    monkeypatch.undo()
    assert cli.main(["rfd", *arguments]) == 0
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert not list(out.glob(".images*"))
    opened = PreparedSource(out)
    for index in (0, 3, 4, 399):
        np.testing.assert_array_equal(fetched(opened, index), pixels[index])


def test_errors_of_the_command(tmp_path, capsys):
    assert cli.main(["rfd", "prepare", "--root=x"]) == 2
    assert "--out is needed" in capsys.readouterr().err
    assert cli.main(["rfd", "prepare", f"--out={tmp_path / 'out'}"]) == 2
    assert "--root is needed, or --source" in capsys.readouterr().err
    assert cli.main(["rfd", "prepare", f"--root={tmp_path / 'x'}", f"--out={tmp_path / 'out'}"]) == 1
    assert "No images at" in capsys.readouterr().err
    assert cli.main(["rfd", "prepare", "--source=tv", "--root=x", f"--out={tmp_path / 'out'}"]) == 1
    assert "`kind` must be one of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_every_command_reads_it(folder, tmp_path):
    """Training on raw pixels ends with the weights of training on the originals."""
    (tmp_path / "images").mkdir()
    shutil.copytree(folder, tmp_path / "images", dirs_exist_ok=True)
    (tmp_path / "images" / "1" / "turned.jpg").unlink()  # the same to rounding only
    places = {"image_folder": tmp_path / "images", "prepared": tmp_path / "prepared"}
    command = ["prepare", f"--root={places['image_folder']}", f"--out={places['prepared']}"]
    assert cli.main(["rfd", *command, "--short_side=0", "--format=raw", "--shard_size=5"]) == 0
    runs = {}
    for kind, place in places.items():
        runs[kind] = tmp_path / f"run-{kind}"
        flags = [
            f"--config.{part}.{field}={value}"
            for part in ("data", "validation")
            for field, value in (("source", kind), ("root", place))
        ]
        processes.run(
            runs[kind], "--config=image_folder", "--config.batch_size=4", "--config.knn.k=3", *flags
        )
    processes.assert_same_end(*runs.values())
    run, place = runs["prepared"], places["prepared"]
    assert cli.main(["rfd", "report", f"--workdir={run}", "--nocontrol"]) == 0
    features = [tmp_path / f"features-{kind}" for kind in places]
    for images, out in zip(places.values(), features, strict=True):
        assert cli.main(["rfd", "extract", f"--model={run}", f"--images={images}", f"--out={out}"]) == 0
    (mine, index, paths, labels), other = map(load_features, features)
    np.testing.assert_array_equal(mine["features"], other[0]["features"])
    assert (index.tolist(), paths, labels.tolist()) == (other[1].tolist(), other[2], other[3].tolist())
    flags = ["--config=evaluate_folder", "--protocol=knn", f"--model={run}", f"--workdir={tmp_path / 'knn'}"]
    for part in ("data", "validation"):
        flags += [
            f"--config.{part}.source=prepared",
            f"--config.{part}.root={place}",
            f"--config.{part}.split=",
        ]
    assert cli.main(["rfd", "evaluate", *flags, "--config.knn.k=(3,)", "--config.batch_size=4"]) == 0
    changed = {"data.source": "prepared", "data.root": place, "epochs": 1, "batch_size": 4}
    changed |= {"optimizer.milestones": "((1,0.01),)"}
    flags = TINY | {f"--config.{name}": value for name, value in changed.items()}
    flags = [f"{name}={value}" for name, value in flags.items()]
    assert cli.main(["rfd", "rotations", *flags, f"--out={tmp_path / 'prob.dat'}"]) == 0
