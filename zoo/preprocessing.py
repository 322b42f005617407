"""How the pixels of a zoo network's images are prepared."""

from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Pixels in `value_range`, minus `mean`, over `std`, one number per channel.

    Args:
        input_size: (height, width) that the network was trained on.
        mean: subtracted per channel, in the order of `channel_order`.
        std: divided by, per channel.
        value_range: of the pixels before mean and std.
        channel_order: `RGB` or `BGR`.
    """

    input_size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    value_range: tuple[float, float] = (0.0, 1.0)
    channel_order: str = "RGB"

    def __post_init__(self):
        if self.channel_order not in ("RGB", "BGR"):
            raise ValueError(f"`channel_order` must be RGB or BGR. Received: {self.channel_order!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"`mean` and `std` must be three numbers, std > 0. Received: {self.mean}, {self.std}"
            )

    def __call__(self, pixels):
        """uint8 RGB images [..., H, W, 3] -> float32, ready for the network."""
        import numpy as np

        low, high = self.value_range
        x = np.asarray(pixels, "float32") / 255.0 * (high - low) + low
        if self.channel_order == "BGR":
            x = x[..., ::-1]
        return ((x - np.asarray(self.mean, "float32")) / np.asarray(self.std, "float32")).astype("float32")
