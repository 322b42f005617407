"""Small TFDS builders. Images come from `CONTENT`: class name -> {file name: encoded bytes}."""

import io
from typing import ClassVar

import tensorflow_datasets as tfds

CONTENT: dict[str, dict[str, bytes]] = {}


class MiniImagenet(tfds.core.GeneratorBasedBuilder):
    """Features of imagenet2012: image, label and file name, stored in TFDS's own shuffled order."""

    # TFDS 4.9.10 looks up builders of a package with `importlib_resources`, which it does not require.
    __module__ = "mini_builders"
    VERSION = tfds.core.Version("1.0.0")
    FEATURES: ClassVar = ("image", "label", "file_name")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=sorted(CONTENT)),
            "file_name": tfds.features.Text(),
        }
        features = {key: features[key] for key in self.FEATURES}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for label, files in CONTENT.items():
            for name, content in files.items():
                example = {"image": io.BytesIO(content), "label": label, "file_name": name}
                yield f"{label}/{name}", {key: example[key] for key in self.FEATURES}


class MiniLabelled(MiniImagenet):
    """Neither file names nor numbers."""

    __module__ = "mini_builders"
    FEATURES: ClassVar = ("image", "label")


class MiniNumbered(MiniImagenet):
    """Like cifar10: images are numbered in the order of the original files."""

    __module__ = "mini_builders"

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=sorted(CONTENT)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self):
        files = [(label, content) for label, files in CONTENT.items() for content in files.values()]
        for number, (label, content) in enumerate(files):
            yield (
                f"train_{number:05d}",
                {
                    "id": f"train_{number:05d}",
                    "image": io.BytesIO(content),
                    "label": label,
                },
            )


class MiniUnlabelled(MiniImagenet):
    """Images only."""

    __module__ = "mini_builders"
    FEATURES: ClassVar = ("image",)
