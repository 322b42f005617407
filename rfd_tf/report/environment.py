"""Where and by what a report was made."""

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("rfd_tf", "tensorflow", "keras", "numpy", "scikit-learn")


def package_versions() -> dict[str, str]:
    """Python and the packages that figures depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed as a package"
    return versions


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory, accelerators."""
    import tensorflow as tf

    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    machine = {
        "system": platform.system() + " " + platform.machine(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "accelerators": ", ".join(gpu.get("device_name", "GPU") for gpu in gpus) or "none",
    }
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        machine["memory"] = f"{memory / 2**30:.0f} GiB"
    return machine


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
