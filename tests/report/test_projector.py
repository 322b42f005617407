"""The projector's files, read by TensorBoard's own plugin."""

import io

import numpy as np
import pytest
from PIL import Image

from rfd_tf.report.sample import MAX_SPRITE, Sample, sprite_of, write_projector

COUNT, WIDTH = 11, 5


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    return Sample(
        source="validation",
        indices=np.arange(COUNT) * 2,
        features=rng.normal(size=(COUNT, WIDTH)).astype("float32"),
        thumbnails=np.arange(COUNT, dtype="uint8")[:, None, None, None] * np.full((96, 96, 3), 20, "uint8"),
        labels=np.arange(COUNT) % 2,
        class_names=["a\tb\nc", "d"],
        names=[f"/data/caf\udce9 {i}.png" for i in range(COUNT)],
    )


@pytest.mark.parametrize("below", ["", "projector"])
def test_tensorboard_loads_them(sample, tmp_path, below):
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
    from werkzeug.test import Client

    write_projector(sample, tmp_path)

    class NoRuns:
        def list_runs(self, ctx, experiment_id):
            return []

    plugin = ProjectorPlugin(TBContext(logdir=str(tmp_path / below), data_provider=NoRuns()))

    def ask(route, **query):
        answer = Client(plugin.get_plugin_apps()[route]).get("/", query_string=query)
        assert answer.status_code == 200, answer.text
        return answer

    assert ask("/runs").json == ["."]
    (embedding,) = ask("/info", run=".").json["embeddings"]
    assert embedding["tensorShape"] == [COUNT, WIDTH]
    asked = {"run": ".", "name": embedding["tensorName"]}
    tensor = np.frombuffer(ask("/tensor", **asked).data, "float32").reshape(COUNT, WIDTH)
    np.testing.assert_allclose(tensor, sample.features, rtol=1e-5)
    heading, *rows = ask("/metadata", **asked).text.rstrip("\n").split("\n")
    assert heading.split("\t") == ["class", "index", "file"]
    assert [row.split("\t")[:2] for row in rows[:3]] == [["a b c", "0"], ["d", "2"], ["a b c", "4"]]
    assert len(rows) == COUNT
    sprite = Image.open(io.BytesIO(ask("/sprite_image", **asked).data))
    tile = embedding["sprite"]["singleImageDim"]
    assert tile == [64, 64]
    columns = sprite.width // tile[0]
    assert columns * (sprite.height // tile[1]) >= COUNT
    # The projector looks for image i there:
    for i in range(COUNT):
        corner = (i % columns * tile[0] + 32, i // columns * tile[1] + 32)
        assert sprite.getpixel(corner) == (20 * i,) * 3


@pytest.mark.parametrize(("count", "expected"), [(1, 4), (5, 4), (3000 * 3000, 2)])
def test_sprite_stays_within_what_browsers_take(count, expected, monkeypatch):
    thumbnails = np.broadcast_to(np.uint8(7), (count, 4, 4, 3))
    if count > 1000:  # the size alone: the pasting would take minutes
        monkeypatch.setattr("rfd_tf.report.sample.enumerate", lambda _: (), raising=False)
    sprite, tile = sprite_of(thumbnails)
    assert tile == expected
    assert sprite.width == sprite.height <= MAX_SPRITE
    assert (sprite.width // tile) ** 2 >= count


def test_again_replaces_the_files(sample, tmp_path):
    for _ in range(2):
        folder = write_projector(sample, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [
        "metadata.tsv",
        "projector_config.pbtxt",
        "sprite.png",
        "tensors.tsv",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["projector", "projector_config.pbtxt"]
