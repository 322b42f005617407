"""RFD's classifiers in PyTorch, written from the recipe, and their weights for ours."""

import numpy as np
from torch import nn


def linear(channels: int, pool_size: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.AdaptiveMaxPool2d(pool_size),
        nn.BatchNorm2d(channels, affine=False),
        nn.Flatten(),
        nn.Linear(channels * pool_size**2, classes),
    )


def nonlinear(channels: int, side: int, width: int, classes: int, convolution: bool) -> nn.Sequential:
    begin = []
    if convolution:
        begin = [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    pooled = (side - 3) // 2 + 1
    return nn.Sequential(
        *begin,
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Linear(channels * pooled**2, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def copy_weights(theirs: nn.Sequential, ours) -> None:
    """PyTorch's weights into a probe of ours, layer by layer in order."""
    modules = [m for m in theirs if isinstance(m, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d)]
    layers = [layer for layer in ours.layers if layer.weights]
    for position, (module, layer) in enumerate(zip(modules, layers, strict=True)):
        layer.set_weights(
            weights_of(module, channels_last_from=ours if _flattened(modules, position) else None)
        )


def _flattened(modules, position) -> bool:
    return isinstance(modules[position], nn.Linear) and not any(
        isinstance(module, nn.Linear) for module in modules[:position]
    )


def weights_of(module, channels_last_from=None) -> list[np.ndarray]:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        values = [module.weight, module.bias] if module.affine else []
        return [value.detach().numpy() for value in (*values, module.running_mean, module.running_var)]
    weight = module.weight.detach().numpy()
    if isinstance(module, nn.Conv2d):
        weight = weight.transpose(2, 3, 1, 0)
    else:
        if channels_last_from is not None:  # PyTorch flattens channels first
            _, height, width, channels = next(
                layer for layer in channels_last_from.layers if "flatten" in layer.name
            ).input.shape
            weight = weight.reshape(len(weight), channels, height, width).transpose(0, 2, 3, 1)
        weight = weight.reshape(len(weight), -1).T
    return [weight] if module.bias is None else [weight, module.bias.detach().numpy()]
