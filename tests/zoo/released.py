"""Random weights in the layouts of the released files, made with PyTorch or NumPy only."""

import numpy as np

import zoo

CONVOLUTIONS = {0: (64, 3, 11), 2: (192, 64, 5), 4: (384, 192, 3), 5: (256, 384, 3), 6: (256, 256, 3)}
NARROW = 32


def alexnet_state(width: int = NARROW, *, heads: bool = False, norm: bool = True, seed: int = 0) -> dict:
    """A state dict of the released PyTorch layout, as NumPy arrays, with random batch norm statistics."""
    rng = np.random.default_rng(seed)
    state = {}

    def add(key, *shape, scale=0.1, shift=0.0):
        state[key] = (rng.standard_normal(shape, "float32") * scale + shift).astype("float32")

    def add_norm(prefix, size):
        add(prefix + "weight", size, shift=1.0)
        add(prefix + "bias", size)
        add(prefix + "running_mean", size)
        state[prefix + "running_var"] = rng.uniform(0.5, 1.5, size).astype("float32")
        state[prefix + "num_batches_tracked"] = np.array(7)

    for block, (filters, channels, kernel) in CONVOLUTIONS.items():
        fan_in = channels * kernel**2
        key = f"_feature_blocks.{block}."
        add(key + "0.weight", filters, channels, kernel, kernel, scale=(2 / fan_in) ** 0.5)
        add(key + "0.bias", filters)
        if norm:
            add_norm(key + "1.", filters)
    for position, inputs in ((1, 9216), (4, width)):
        add(f"_feature_blocks.8.{position}.weight", width, inputs, scale=(2 / inputs) ** 0.5)
        if norm:
            add_norm(f"_feature_blocks.8.{position + 1}.", width)
        else:
            add(f"_feature_blocks.8.{position}.bias", width)
    if heads:
        add("fc_classifier.0.weight", 4, width // 2)
        add("fc_classifier.0.bias", 4)
        add("norm.0.weight", 128, width // 2)
        add("norm.0.bias", 128)
    return state


def save_released(folder, state: dict) -> dict:
    """The files that RFD's code writes, one for each network: part -> path; `state` has the heads.

    The parts are `backbone`, `rotation` and `projection`.
    """
    prefixes = {"backbone": "_feature_blocks.", "rotation": "fc_classifier.", "projection": "norm."}
    paths = {}
    for part, prefix in prefixes.items():
        paths[part] = folder / f"{part}_epoch245.pth.tar"
        save_torch(paths[part], {key: array for key, array in state.items() if key.startswith(prefix)})
    return paths


def resnet_state(seed: int = 0, classes: int = 10, depth: int = 20, cosine: bool = False) -> dict:
    """A CIFAR ResNet of akamaster's layout, as NumPy arrays, or with the cosine classifier of LDAM-DRW."""
    rng = np.random.default_rng(seed)
    state = {}

    def add_unit(prefix, number, filters, channels):
        kernel = rng.standard_normal((filters, channels, 3, 3), "float32") * (2 / (9 * channels)) ** 0.5
        state[f"{prefix}conv{number}.weight"] = kernel.astype("float32")
        for part, low in (("weight", 0.5), ("bias", -0.1), ("running_mean", -0.1), ("running_var", 0.5)):
            values = rng.uniform(low, low + 0.5, filters)
            state[f"{prefix}bn{number}.{part}"] = values.astype("float32")

    add_unit("", 1, 16, 3)
    channels = 16
    for block, filters in ((1, 16), (2, 32), (3, 64)):
        for unit in range((depth - 2) // 6):
            add_unit(f"layer{block}.{unit}.", 1, filters, channels)
            add_unit(f"layer{block}.{unit}.", 2, filters, filters)
            channels = filters
    if cosine:
        state["linear.weight"] = rng.standard_normal((64, classes), "float32")
        return state
    state["linear.weight"] = rng.standard_normal((classes, 64), "float32")
    state["linear.bias"] = rng.standard_normal(classes, "float32")
    return state


def save_torch(
    path, state, *, legacy=True, prefix="module.", nest="network", dtype=None, beside=None
) -> None:
    """Write a checkpoint with PyTorch itself; `beside` goes beside the nested weights."""
    import torch

    tensors = {prefix + key: torch.from_numpy(np.array(array)) for key, array in state.items()}
    if dtype is not None:
        tensors = {key: t.to(dtype) if t.is_floating_point() else t for key, t in tensors.items()}
    content = {"epoch": 245, **(beside or {}), nest: tensors} if nest else tensors
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def register_narrow(name="narrow", architecture="alexnet", format="torch", **fields) -> zoo.Entry:
    """An entry for an AlexNet with narrow dense layers."""
    options = (("dense_width", NARROW),) if architecture.startswith("alexnet") else ()
    fields = {"options": options, "file_name": "narrow.bin", "licence": "none", "citation": "none", **fields}
    entry = zoo.Entry(name=name, description="test", format=format, architecture=architecture, **fields)
    return zoo.register(entry, replace=True)
