"""What a mixed-precision policy must not touch: logits, embeddings, losses, bank, conversions, exports."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
from absl import logging
from keras import ops

from rfd_tf.keras_internals import all_layers


def full_precision(value):
    """`value` in `keras.config.floatx()`, float32 by default, whatever the dtype policy computes in."""
    return ops.cast(value, keras.config.floatx())


@contextmanager
def float32_policy() -> Iterator[None]:
    """Within, this thread builds its layers with the policy `float32`; then with the one before again."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextmanager
def computing_in_float32(model: keras.Model) -> Iterator[None]:
    """Within, every layer of `model` computes in float32; then with its own policy again."""
    before = to_float32(model)
    try:
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def to_float32(model: keras.Model) -> list[tuple[keras.layers.Layer, keras.DTypePolicy]]:
    """Have every layer of `model` compute in float32; the layers that did not, with their former policies."""
    before = [(layer, layer.dtype_policy) for layer in all_layers(model)]
    before = [(layer, policy) for layer, policy in before if policy.compute_dtype != "float32"]
    for layer, _ in before:
        layer.dtype_policy = "float32"
    return before


AUTO = "auto"  # of `resolved_policy`


def resolved_policy(name: str) -> str:
    """A dtype policy's name; of `"auto"` what is fast here: mixed_bfloat16 where it is not emulated."""
    if name != AUTO:
        return name
    device = bfloat16_device()
    policy = "mixed_bfloat16" if device else "float32"
    logging.info(
        "dtype_policy=auto: %s, as %s",
        policy,
        f"{device} has bfloat16" if device else "nothing here has bfloat16",
    )
    return policy


_CPUINFO = Path("/proc/cpuinfo")
# Of x86-64, and of aarch64. AMX needs the kernel's support, which the flag is about, too.
_BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_BFLOAT16_CAPABILITY = 8.0  # of NVIDIA GPUs: Ampere


def bfloat16_device() -> str | None:
    """What here computes in bfloat16 itself, for people: a GPU or the processor; None if it is emulated.

    Where there are GPUs, they are what counts, and each must have it.
    """
    if capabilities := _gpu_capabilities():
        return "the GPU" if min(capabilities) >= _BFLOAT16_CAPABILITY else None
    flags = _processor_flags()
    found = [flag for flag in _BFLOAT16_FLAGS if flag in flags]
    return f"the processor ({', '.join(found)})" if found else None


def _gpu_capabilities() -> list[float]:
    """CUDA's compute capability of each GPU that Keras's backend uses; infinite of other accelerators."""
    if keras.backend.backend() == "jax":
        import jax

        others = [device for device in jax.devices() if device.platform != "cpu"]
        return [float(getattr(device, "compute_capability", "inf")) for device in others]
    if keras.backend.backend() == "torch":
        import torch

        count = torch.cuda.device_count()
        return [float("{}.{}".format(*torch.cuda.get_device_capability(i))) for i in range(count)]
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [float("{}.{}".format(*found.get("compute_capability", (0, 0)))) for found in details]


def _processor_flags() -> set[str]:
    """As Linux names them; none where it is another system."""
    if not os.path.exists(_CPUINFO) or platform.system() != "Linux":
        return set()
    lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    named = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return set(named[0].split()) if named else set()
