import dataclasses

from rfd_tf.export.onnx_file import FILES
from rfd_tf.extractors.model_info import INPUTS, NORMALIZED

FORMATS = ("saved_model", "onnx", "keras")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What an export consists of.

    Attributes:
        formats: of `"saved_model"`, `"onnx"`, `"keras"`.
        input: what SavedModel and ONNX take: `"normalized"` images or `"uint8"` pixels.
        onnx_precisions: of `"float32"`, `"float16"`, `"int8"`: a file each.
        version: of the SavedModel, from 1 on.
        overwrite: whether to replace a version that is there.
        serving: whether to add what TensorFlow Serving wants; needs the format `"saved_model"`.

    Raises:
        ValueError: on a value out of range.
    """

    formats: tuple[str, ...] = FORMATS
    input: str = NORMALIZED
    onnx_precisions: tuple[str, ...] = ("float32",)
    version: int = 1
    overwrite: bool = False
    serving: bool = False

    def __post_init__(self):
        for field, allowed in (("formats", FORMATS), ("onnx_precisions", tuple(FILES))):
            given = getattr(self, field)
            if not given or set(given) - set(allowed) or len(set(given)) < len(given):
                raise ValueError(f"`{field}` must be some of {', '.join(allowed)}. Received: {given}")
        if self.input not in INPUTS:
            raise ValueError(f"`input` must be one of {', '.join(INPUTS)}. Received: input={self.input!r}")
        if self.version < 1:
            raise ValueError(f"`version` must be at least 1. Received: version={self.version}")
        if self.serving and "saved_model" not in self.formats:
            raise ValueError(f"`serving` needs the format saved_model. Received: formats={self.formats}")
