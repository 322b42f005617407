"""Caffe's weights in memory, whichever file they came from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from zoo.errors import FormatError


@dataclass(frozen=True)
class LayerBlobs:
    """The blobs of one layer.

    Args:
        kind: Caffe's layer type, or empty where the file does not tell.
        blobs: its arrays.
        inputs: names of the layers with blobs whose outputs it gets, directly or through layers without;
            None where the file does not tell.
    """

    kind: str
    blobs: tuple[np.ndarray, ...]
    inputs: frozenset[str] | None = None


def blob_state(layers: Mapping[str, LayerBlobs]) -> dict[str, np.ndarray]:
    """`LAYER/INDEX` -> array; a batch norm's statistics divided by its third blob, Caffe's scale factor.

    Raises:
        FormatError: if a batch norm has other than three blobs.
    """
    state = {}
    for name, layer in layers.items():
        blobs = layer.blobs
        if (layer.kind or _kind(name, blobs[0])) == "BatchNorm":
            if len(blobs) != 3 or blobs[2].size != 1:
                raise FormatError(f"The BatchNorm layer {name!r} has {len(blobs)} blobs; Caffe's have three")
            factor = blobs[2].reshape(())
            blobs = tuple(blob / factor if factor else np.zeros_like(blob) for blob in blobs[:2])
        state.update({f"{name}/{index}": blob for index, blob in enumerate(blobs)})
    return state


def spare_layers(layers: Mapping[str, LayerBlobs], wanted: Collection[str]) -> tuple[str, ...]:
    """Names of the layers that are not wanted and can be left out without changing what the others compute.

    Raises:
        FormatError: if a wanted layer gets the output of another, or where the file does not tell that, if
            another has no kernel: batch norms and scales change the values of the layer before.
    """
    spare = tuple(name for name in layers if name not in wanted)
    present = [name for name in wanted if name in layers]
    for name in spare:
        inputs = layers[name].inputs
        user = next((user for user in present if name in (layers[user].inputs or ())), None)
        if user is not None:
            raise FormatError(f"its layer {user!r} is computed from {name!r}, for which there is no place")
        if layers[name].blobs[0].ndim < 2 and (not inputs or not inputs.isdisjoint(present)):
            changed = f" of {', '.join(sorted(inputs.intersection(present)))}" if inputs else ""
            raise FormatError(f"its layer {name!r} changes values{changed}, and there is no place for it")
    return spare


def state_layers(state: Mapping[str, np.ndarray]) -> dict[str, LayerBlobs]:
    """The inverse of `blob_state`, for layers named as the zoo names them."""
    grouped: dict[str, list[np.ndarray]] = {}
    for key, array in state.items():
        grouped.setdefault(key.rpartition("/")[0], []).append(array)
    layers = {}
    for name, blobs in grouped.items():
        kind = _kind(name, blobs[0])
        if kind == "BatchNorm":
            blobs = [*blobs, np.ones(1, "float32")]
        layers[name] = LayerBlobs(kind, tuple(blobs))
    return layers


def _kind(name: str, first: np.ndarray) -> str:
    if name.endswith("_bn"):
        return "BatchNorm"
    if name.endswith("_scale"):
        return "Scale"
    return "Convolution" if first.ndim == 4 else "InnerProduct"
