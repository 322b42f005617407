"""Which versions TensorFlow Serving loads, and their labels."""

from pathlib import Path

from google.protobuf import text_format

try:
    from tensorflow_serving.config import model_server_config_pb2
except ImportError as error:
    raise ImportError(
        f"Files for TensorFlow Serving need its protocols ({error}): pip install 'rfd_tf[serving]'"
    ) from error

STABLE, CANARY = "stable", "canary"
MODELS_CONFIG = Path("serving", "models.config")


def updated_model_config(
    out: Path, name: str, version: int, make_stable: bool = False, published: Path | None = None
) -> str:
    """The text of `models.config` with a version added.

    The first version is labelled `stable`, further ones `canary`, each in its predecessor's place. The
    versions that have a label are loaded, no others. Labels of versions that are no longer in `saved_model/`
    go; other models and other settings of an existing file stay.

    Args:
        out: the export's folder.
        name: of the model.
        version: that was exported.
        make_stable: whether it takes the label `stable` over, and `canary` ends.
        published: where the present file and the other versions are, if not in `out`.

    Raises:
        ValueError: if the present file is none, or is about models of other names.
    """
    published = published or out
    config = _present(published / MODELS_CONFIG, name)
    model = next(model for model in config.model_config_list.config if model.name == name)
    there = {path.name for folder in (out, published) for path in folder.glob("saved_model/*")}
    labels = {label: number for label, number in model.version_labels.items() if str(number) in there}
    if make_stable or STABLE not in labels:
        labels[STABLE] = version
        labels.pop(CANARY, None)
    elif version not in labels.values():
        labels[CANARY] = version
    model.version_labels.clear()
    for label, number in labels.items():
        model.version_labels[label] = number
    del model.model_version_policy.specific.versions[:]
    model.model_version_policy.specific.versions.extend(sorted(set(labels.values())))
    return text_format.MessageToString(config)


def _present(path: Path, name: str) -> model_server_config_pb2.ModelServerConfig:
    config = model_server_config_pb2.ModelServerConfig()
    if not path.exists():
        config.model_config_list.config.add(
            name=name, base_path=f"/models/{name}", model_platform="tensorflow"
        )
        return config
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no configuration of TensorFlow Serving ({error})") from error
    names = [model.name for model in config.model_config_list.config]
    if name not in names:
        raise ValueError(
            f"{path} is about {', '.join(map(repr, names)) or 'no model'}, not {name!r}: "
            "export into another folder"
        )
    return config
