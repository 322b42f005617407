"""Installation: `pip install -e .` for use, `pip install -e .[test]` for development (see the Makefile)."""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "absl-py>=2.3,<3",
    "array-record>=0.8,<1",
    "cryptography>=45",
    "defusedxml>=0.7.1,<0.9",
    "filelock>=3.16,<5",
    "h5py>=3.11,<4",
    "importlib-resources>=6",  # tensorflow-datasets imports it without asking for it
    "jinja2>=3.1,<4",
    "keras>=3.15,<4",
    # Backbones by name. Small (30 MB with its own needs), imported (2 s) only for a `keras_cv.NAME`.
    # Its last version: it is no longer developed, keras-hub follows it.
    "keras-cv==0.9.0",
    "matplotlib>=3.9,<4",
    "ml-collections>=1.1,<2",
    "ml-dtypes>=0.5,<1",
    "numpy>=2.0,<3",
    "orjson>=3.10,<4",
    "pillow>=11,<14",
    "platformdirs>=4.3,<5",
    "protobuf>=6.31,<8",
    "requests>=2.32,<3",
    "scikit-learn>=1.5,<2",
    "scipy>=1.14,<2",
    "tensorboard>=2.20,<3",
    "tensorflow>=2.21,<2.22",
    "tensorflow-datasets>=4.9.10,<5",
    "threadpoolctl>=3.5,<4",
    "tqdm>=4.66,<5",
]
EXTRAS = {
    # selective search is in "contrib"
    "detection": ["opencv-contrib-python-headless>=4.14,<5", "pycocotools>=2.0.11,<3"],
    "parquet": ["pyarrow>=18,<27"],
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
    # Not in the core: it brings tensorflow-text, tokenizers and others, 250 MB, for the text models.
    "keras-hub": ["keras-hub>=0.32,<0.33"],
    "jax": ["jax>=0.10,<0.11"],
    "onnx": ["onnx>=1.20,<2", "onnxruntime>=1.23,<2", "tf2onnx>=1.17,<2"],
    "openvino": ["nncf>=3.2,<4", "openvino>=2026.1,<2027"],
    "serving": ["grpcio>=1.76,<2", "tensorflow-serving-api>=2.21,<2.22"],
    "torch": ["torch>=2.13,<2.14"],
    "lint": ["mypy==2.4.1", "ruff==0.17.6"],
}
EXTRAS["all"] = sorted({need for name, extra in EXTRAS.items() if name != "gpu" for need in extra})
# Not in "all": Beam asks for protobuf < 7 and an older pyarrow, so it takes an environment of its own.
EXTRAS["beam"] = ["apache-beam>=2.77,<3", *EXTRAS["parquet"]]
EXTRAS["test"] = [
    *EXTRAS["lint"],
    *EXTRAS["parquet"],
    *EXTRAS["onnx"],
    *EXTRAS["openvino"],
    *EXTRAS["serving"],
    *EXTRAS["detection"],
    *EXTRAS["keras-hub"],
    "atheris>=3,<4; sys_platform == 'linux' and platform_machine == 'x86_64'",
    "hypothesis>=6.150,<7",
    "ipykernel>=6.29,<8",
    "jax==0.10.2",
    "jupytext>=1.16,<2",
    "nbclient>=0.10,<0.12",
    "pytest>=8.2,<10",
    "pytest-xdist>=3.6,<4",
    "pyyaml>=6,<7",
    "selenium>=4.25,<5",
    "sybil>=9,<11",
    "torch==2.13.0",
]

setup(
    name="rfd_tf",
    version="0.1.0",
    description="Imbalanced rotation feature decoupling: self-supervised learning in Keras and TensorFlow",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    # `configs/` is installed within the package: the bare name would be in everyone's way.
    package_dir={"rfd_tf.configs": "configs"},
    packages=[
        *find_packages(include=["rfd_tf", "rfd_tf.*", "zoo", "zoo.*"]),
        *(f"rfd_tf.{name}" for name in find_packages(include=["configs.*"])),
    ],
    package_data={
        "rfd_tf.exporting": ["serving_templates/*"],
        "rfd_tf.report": ["templates/*"],
        "zoo": ["weights/*"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["rfd = rfd_tf.cli:main"]},
)
