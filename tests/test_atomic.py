import pytest

from rfd_tf.files import atomic_file


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "deep/file"
    with atomic_file(path) as file:
        file.write(b"old")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines([b"half", None])
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
