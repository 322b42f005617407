"""The pretext task's random resized crops by PIL and PyTorch, as torchvision's transforms compute them."""

import math
import random

import numpy as np
import torch
from PIL import Image

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class Crops(torch.utils.data.Dataset):
    """Of each file a random resized crop, flipped at random, normalised, float32 [3, S, S]."""

    def __init__(self, files, size: int, length: int):
        self.files, self.size, self.length = files, size, length

    def __len__(self):
        return self.length

    def __getitem__(self, place: int):
        index = place % len(self.files)
        with open(self.files[index], "rb") as file:
            image = Image.open(file).convert("RGB")
        image = image.resize(
            (self.size, self.size), Image.BILINEAR, box=window(*image.size), reducing_gap=None
        )
        if random.random() < 0.5:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return pixels.sub_(MEAN[:, None, None]).div_(STD[:, None, None]), index


def window(width: int, height: int) -> tuple[int, int, int, int]:
    """left, top, right, bottom: area 8-100 %, aspect 3/4 to 4/3, ten tries, then a centred one."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        own_width, own_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < own_width <= width and 0 < own_height <= height:
            left, top = random.randint(0, width - own_width), random.randint(0, height - own_height)
            return left, top, left + own_width, top + own_height
    own_width, own_height = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - own_width) // 2, (height - own_height) // 2
    return left, top, left + own_width, top + own_height
