"""The config of a run that has been there before, from its folder."""

from pathlib import Path

from ml_collections import ConfigDict

from rfd_tf.configs import base, classify
from rfd_tf.json_text import fits, parse_json
from rfd_tf.training.workdir import CONFIG_FILE

# Without these nothing can be said of a run.
NEEDED = ("epochs", "batch_size", "seed", "data", "validation", "preprocessing", "backbone")


def read_run_config(workdir: Path, *more: str) -> ConfigDict:
    """What `workdir/config.json` holds.

    Args:
        workdir: of the run.
        *more: fields that it must have besides `NEEDED`.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no config of `rfd train`: no JSON, a field missing, or one of another type than
            its default. The message names the file and the field.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} is not the folder of a run: it holds no {CONFIG_FILE}")
    try:
        fields = parse_json(path.read_bytes())
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
        like = (base if "method" in fields else classify).get_config().to_dict()
        if missing := [field for field in (*NEEDED, *more) if field not in fields]:
            raise ValueError(f"it has no field {missing[0]!r}")
        _check_fields(fields, like, "")
        return ConfigDict(fields)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no config of a run ({error})") from error


def _check_fields(fields: dict, like: dict, prefix: str) -> None:
    """Those that are known must be of the types that they have by default."""
    for name, default in like.items():
        value = fields.get(name, default)  # one that an earlier version did not have
        if not fits(value, type(default)):
            raise ValueError(f"its field {prefix}{name} is {value!r:.80}")
        if isinstance(default, dict):
            _check_fields(value, default, f"{prefix}{name}.")
