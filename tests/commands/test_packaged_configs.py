"""The configs that come with the package."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from rfd_tf import cli
from rfd_tf.cli.command_line import packaged_configs
from rfd_tf.data import Preprocessing
from rfd_tf.evaluation.results import load_result
from rfd_tf.losses import classifier_loss_names
from rfd_tf.runs.build import build_backbone, build_optimizer


def config_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("name", packaged_configs("pretrain", "classify"))
def test_network_optimizer_and_preprocessing_fit_together(name):
    config = config_of(packaged_configs()[name])
    backbone = build_backbone(config)
    assert len(backbone.output[config.backbone.feature].shape) == 2
    size = Preprocessing(**config.preprocessing).image_size
    assert backbone.input_shape == (None, size, size, 3)
    build_optimizer(config.optimizer, 10)
    assert config.optimizer.milestones[-1][0] == config.epochs
    if "classifier" in config:
        assert len(classifier_loss_names(config.classifier.losses)) == 1
        assert 0 < config.classifier.drw_start_epoch < config.epochs
    else:
        assert 0 < config.ldam.start_epoch < config.epochs


@pytest.mark.parametrize("kind", ["pretrain", "classify", "evaluate", "detect", "sweep"])
def test_every_config_says_its_kind(kind):
    found = packaged_configs(kind)
    assert found
    assert {config_of(path).kind for path in found.values()} == {kind}


def test_orientation_is_ignored_by_published_recipes_and_honoured_for_ones_own_images():
    ignoring = set()
    for name, path in packaged_configs("pretrain", "classify", "evaluate", "detect").items():
        config = config_of(path)
        honoured = config.data.exif_orientation, config.validation.exif_orientation
        assert len(set(honoured)) == 1
        ignoring |= set() if honoured[0] else {name}
    assert ignoring == {
        *("imagenet", "imagenet_ldam", "classify_imagenet_lt", "classify_inaturalist", "linear_imagenet"),
        *("nonlinear_imagenet", "linear_places205", "linear_places365", "voc_classification", "voc2007"),
    }


def test_published_lists_of_imagenet_lt(tmp_path):
    """Three classes instead of a thousand, in the lists' format."""
    rng = np.random.default_rng(0)
    for part, counts in (("train", (12, 6, 3)), ("test", (4, 4, 4))):
        rows = []
        for label, count in enumerate(counts):
            folder = tmp_path / part / f"n{label:08}"
            folder.mkdir(parents=True)
            for number in range(count):
                path = folder / f"n{label:08}_{number}.JPEG"
                Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype("uint8")).save(path)
                rows.append(f"{path.relative_to(tmp_path)} {label}\n")
        (tmp_path / f"ImageNet_LT_{part}.txt").write_text("".join(rows))
    small = (
        "--config.backbone.name=resnet8",
        "--config.preprocessing.image_size=32",
        "--config.preprocessing.resize=36",
        "--config.batch_size=7",
        "--config.epochs=1",
        "--config.optimizer.milestones=((1,0.01),)",
        "--config.optimizer.warmup_epochs=0",
        "--config.tensorboard=False",
        "--config.deterministic=False",
    )
    roots = (f"--config.data.root={tmp_path}", f"--config.validation.root={tmp_path}")
    arguments = ["--config=classify_imagenet_lt", f"--workdir={tmp_path / 'run'}", *roots, *small]
    assert cli.main(["rfd", "train", *arguments]) == 0
    result = load_result(tmp_path / "run" / "evaluation.json")
    assert result.class_counts == [12, 6, 3]
    assert result.test_images == 12
    assert set(result.figures["features"].shot_groups) == {"many", "medium", "few"}
