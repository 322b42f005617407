"""Features of image files as one would write it with PyTorch: a DataLoader, a model, an array that is saved.

python -m benchmarks.torch_extract FOLDER OUT.npy [--autocast]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.torch_alexnet import alexnet
from benchmarks.torch_images import MEAN, STD

SIDE, RESIZE, BATCH, WORKERS = 224, 256, 64, 2


class Images(torch.utils.data.Dataset):
    """Short side to 256 pixels, the centre of 224, normalised, float32 [3, 224, 224]."""

    def __init__(self, files: list[Path]):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index: int):
        with open(self.files[index], "rb") as file:
            image = Image.open(file).convert("RGB")
        scale = RESIZE / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BILINEAR)
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        image = image.crop((left, top, left + SIDE, top + SIDE))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(MEAN[:, None, None]).div_(STD[:, None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--autocast", action="store_true", help="in bfloat16")
    given = parser.parse_args()
    model = alexnet().eval()
    images = Images(sorted(given.folder.rglob("*.jpg")))
    found = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=given.autocast):
        for batch in torch.utils.data.DataLoader(images, BATCH, num_workers=WORKERS):
            found.append(model(batch).float().numpy())
    np.save(given.out, np.concatenate(found))


if __name__ == "__main__":
    main()
