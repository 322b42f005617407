import gzip
import json
import logging
import os
import shutil
import time

import pytest

from rfd_tf.data import FlatFolder, ImageFolder, folder_index, image_folder
from rfd_tf.data.folder_index import Folder, FolderIndex
from tests.data.images import write

TICK = 0.03  # seconds; a file system's clock goes in steps of up to 10 ms


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that keeps small and new collections, too."""
    monkeypatch.setenv("RFD_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "_WORTH_KEEPING", 1)
    monkeypatch.setattr(folder_index, "_SETTLED_NS", -1)
    return tmp_path / "cache" / "folders"


@pytest.fixture
def listed(monkeypatch):
    """The folders that are listed, in the order of that."""
    paths = []
    read = image_folder.list_folder
    monkeypatch.setattr(image_folder, "list_folder", lambda path: paths.append(path) or read(path))
    return paths


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "images"
    write(root, "a/1.jpg", "a/deep/2.jpg", "a/deep/er/3.png", "b/1.jpg", "b/2.JPEG", "c/x.jpg")
    (root / "a/notes.txt").write_text("x")
    (root / "beside.gif").write_text("x")
    return root


def opened(root, kind=ImageFolder):
    source = kind(root)
    labels = None if source.labels is None else source.labels.tolist()
    return source.files, labels, source.class_names, source.left_out


def listed_anew(root, monkeypatch, kind=ImageFolder):
    with monkeypatch.context() as without:
        without.setenv(folder_index.SWITCH, "0")
        return opened(root, kind)


def test_the_second_opening_lists_nothing_and_gives_the_same(root, cache, listed, monkeypatch):
    first = opened(root)
    assert len(listed) == 6
    before = sorted(os.walk(root))
    time.sleep(TICK)
    listed.clear()
    assert opened(root) == first == listed_anew(root, monkeypatch)
    assert len(listed) == 6  # those of `listed_anew`
    assert opened(root, FlatFolder) == listed_anew(root, monkeypatch, FlatFolder)
    assert len(listed) == 12
    assert sorted(os.walk(root)) == before
    assert len(list(cache.iterdir())) == 1


def swap(root):
    (root / "a").rename(root / "between")
    (root / "b").rename(root / "a")
    (root / "between").rename(root / "b")


def add_and_set_the_time_back(root):
    status = os.stat(root / "b")
    write(root, "b/late.jpg")
    os.utime(root / "b", ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_link(root):
    shutil.move(root / "c", root.parent / "elsewhere")
    (root.parent / "elsewhere/y.jpg").write_bytes(b"x")
    (root / "c").symlink_to(root.parent / "elsewhere")


def replace_image_by_folder(root):
    (root / "b/1.jpg").unlink()
    write(root, "b/1.jpg/inside.jpg")


CHANGES = {
    "an image more": lambda root: write(root, "b/3.jpg"),
    "an image more, deep down": lambda root: write(root, "a/deep/er/4.jpg"),
    "an image less": lambda root: (root / "b/1.jpg").unlink(),
    "an image renamed": lambda root: (root / "b/1.jpg").rename(root / "b/9.jpg"),
    "an image in capitals": lambda root: (root / "b/1.jpg").rename(root / "b/1.JPG"),
    "an image moved": lambda root: (root / "b/1.jpg").rename(root / "a/deep/1.jpg"),
    "no image any more": lambda root: (root / "b/1.jpg").rename(root / "b/1.heic"),
    "a file beside": lambda root: (root / "another.gif").write_text("x"),
    "a class more": lambda root: write(root, "aa/1.jpg"),
    "a class less": lambda root: shutil.rmtree(root / "b"),
    "a class renamed": lambda root: (root / "b").rename(root / "z"),
    "two classes swapped": swap,
    "a class is a link": replace_by_link,
    "a folder with an image's name": replace_image_by_folder,
    "a folder's time set back": add_and_set_the_time_back,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_are_noticed(root, cache, monkeypatch, change):
    before = [opened(root, kind) for kind in (ImageFolder, FlatFolder)]
    time.sleep(TICK)
    change(root)
    for kind, was in zip((ImageFolder, FlatFolder), before, strict=True):
        found = opened(root, kind)
        assert found == listed_anew(root, monkeypatch, kind) != was


def test_what_did_not_change_is_not_listed(root, cache, listed):
    opened(root)
    time.sleep(TICK)
    write(root, "b/3.jpg")
    listed.clear()
    opened(root)
    assert listed == [f"{root}/b"]
    opened(root)
    assert listed == [f"{root}/b"]


def test_links_are_looked_at_each_time(root, cache, listed, monkeypatch):
    outside = root.parent / "outside"
    write(outside, "folder/1.jpg", "2.jpg")
    (root / "b/link.jpg").symlink_to(outside / "2.jpg")
    (root / "linked").symlink_to(outside / "folder")
    first = opened(root)
    time.sleep(TICK)
    listed.clear()
    assert opened(root) == first
    assert sorted(listed) == [str(root), f"{root}/b"]  # the folder that a link leads to is known
    write(outside, "folder/3.jpg")
    (outside / "2.jpg").unlink()
    write(outside, "2.jpg/4.jpg")  # what the link in `b` leads to is a folder now
    found = opened(root)
    assert found == listed_anew(root, monkeypatch)
    assert {"linked/3.jpg", "b/link.jpg/4.jpg"} < set(found[0])


def test_a_folder_that_changed_a_moment_ago_is_not_relied_on(root, cache, listed, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("RFD_TF_CACHE", str(cache.parent))
    monkeypatch.setattr(folder_index, "_WORTH_KEEPING", 1)
    index = FolderIndex(root, image_folder.list_folder, ())
    assert index.folder("c").images == ["x.jpg"]
    monkeypatch.setattr(folder_index.time, "time_ns", lambda: os.stat(root / "b").st_ctime_ns + 61 * 10**9)
    index.folder("b")
    index.save()
    again = FolderIndex(root, lambda _path: Folder([], ["listed.jpg"], {}, True), ())
    assert again.folder("c").images == ["listed.jpg"]
    assert again.folder("b").images == ["1.jpg", "2.JPEG"]


def rewritten(change):
    def damage(file):
        content = json.loads(gzip.decompress(file.read_bytes()))
        change(content)
        file.write_bytes(gzip.compress(json.dumps(content).encode()))

    return damage


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("hello"),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "a bit": flip_a_byte,
    "not JSON": lambda file: file.write_bytes(gzip.compress(b"{")),
    "no object": lambda file: file.write_bytes(gzip.compress(b"[]")),
    "another version": rewritten(lambda content: content.update(format=2)),
    "of another folder": rewritten(lambda content: content.update(root="/elsewhere")),
    "of other endings": rewritten(lambda content: content["kinds"].append(".new")),
    "no folders": rewritten(lambda content: content.pop("folders")),
    "other types": rewritten(lambda content: content["folders"]["b"].__setitem__(2, 3)),
    "a folder of it": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_index_that_is_not_ours_costs_one_line(root, cache, listed, caplog, damage):
    caplog.set_level(logging.INFO, "absl")
    first = opened(root)
    (file,) = cache.iterdir()
    damage(file)
    caplog.clear()
    listed.clear()
    assert opened(root) == first
    assert len(listed) == 6
    (line,) = [r.getMessage() for r in caplog.records if "is not used" in r.getMessage()]
    assert str(file) in line
    assert "\n" not in line
    if file.is_file():
        time.sleep(TICK)
        assert opened(root) == first  # it was written anew
        assert len(listed) == 6


def test_a_cache_that_cannot_be_written_costs_a_line(root, cache, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "absl")
    cache.parent.write_text("a file where the folder should be")
    assert opened(root) == listed_anew(root, monkeypatch)
    assert any("is not kept" in record.getMessage() for record in caplog.records)


def test_it_can_be_switched_off(root, cache, monkeypatch):
    listed_anew(root, monkeypatch)
    assert not cache.exists()


def test_small_collections_are_not_kept(root, cache, monkeypatch):
    monkeypatch.setattr(folder_index, "_WORTH_KEEPING", 10)
    opened(root)
    assert not cache.exists()


def test_fuse_is_not_relied_on(root, cache, listed, tmp_path, monkeypatch):
    device = os.stat(root).st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"40 22 {os.major(device)}:{os.minor(device)} / /bucket rw - fuse.gcsfuse bucket rw\n"
    )
    monkeypatch.setattr(folder_index, "_MOUNTS", str(mounts))
    folder_index._on_fuse.cache_clear()
    try:
        opened(root)
        opened(root)
    finally:
        folder_index._on_fuse.cache_clear()
    assert len(listed) == 12


def test_names_of_any_bytes(root, cache, listed):
    (root / os.fsdecode(b"caf\xe9")).mkdir()
    for name in (b"\xff.jpg", "é\n.jpg".encode(), b'".jpg', b"a\\b.jpg"):
        (root / os.fsdecode(b"caf\xe9/" + name)).write_bytes(b"x")
    first = opened(root)
    time.sleep(TICK)
    listed.clear()
    assert opened(root) == first
    assert not listed


def test_two_at_once(root, cache, listed):
    both = [FolderIndex(root, image_folder.list_folder, image_folder._ENDINGS) for _ in range(2)]
    for index in both:
        assert list(image_folder.images_below(index, image_folder.Counter()))
    for index in both:
        index.save()
    time.sleep(TICK)
    listed.clear()
    opened(root)
    assert not listed
    assert len(list(cache.iterdir())) == 1
