"""AlexNet with batch norm in PyTorch (see `docs/method.md`), as one would write it there."""

from torch import nn

FEATURES = 4096


def alexnet() -> nn.Sequential:
    """From images [B, 3, 224, 224] to features [B, 4096]."""
    return nn.Sequential(
        *_convolution(3, 64, 11, 4, 2),
        nn.MaxPool2d(3, 2),
        *_convolution(64, 192, 5, 1, 2),
        nn.MaxPool2d(3, 2),
        *_convolution(192, 384, 3, 1, 1),
        *_convolution(384, 256, 3, 1, 1),
        *_convolution(256, 256, 3, 1, 1),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        *_dense(256 * 6 * 6),
        *_dense(FEATURES),
    )


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int):
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, padding),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _dense(inputs: int):
    return nn.Linear(inputs, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU(inplace=True)
