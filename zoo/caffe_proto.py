"""The part of Caffe's protocol that weights need, as protobuf messages made at run time (no compiler needed).

Field numbers are those of Caffe's format; every other field of a file is skipped as unknown.
"""

from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_LAYER_TYPES = {"CONVOLUTION": 4, "INNER_PRODUCT": 14}
# message -> (field, number, type, repeated)
_MESSAGES = {
    "BlobShape": (("dim", 1, "int64", True),),
    "BlobProto": (
        ("num", 1, "int32", False),
        ("channels", 2, "int32", False),
        ("height", 3, "int32", False),
        ("width", 4, "int32", False),
        ("data", 5, "float", True),
        ("shape", 7, "BlobShape", False),
        ("double_data", 8, "double", True),
    ),
    "V1LayerParameter": (
        ("layer", 1, "bytes", False),  # the still older V0 form, only to refuse it by name
        ("bottom", 2, "string", True),
        ("top", 3, "string", True),
        ("name", 4, "string", False),
        ("type", 5, "int32", False),
        ("blobs", 6, "BlobProto", True),
    ),
    "LayerParameter": (
        ("name", 1, "string", False),
        ("type", 2, "string", False),
        ("bottom", 3, "string", True),
        ("top", 4, "string", True),
        ("blobs", 7, "BlobProto", True),
    ),
    "NetParameter": (
        ("name", 1, "string", False),
        ("layers", 2, "V1LayerParameter", True),
        ("layer", 100, "LayerParameter", True),
    ),
}
V1_INNER_PRODUCT = _LAYER_TYPES["INNER_PRODUCT"]
V1_CONVOLUTION = _LAYER_TYPES["CONVOLUTION"]


@cache
def message_class(name: str) -> type:
    """The class of one of the messages above, by its name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"rfd_tf.caffe.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="rfd_tf_caffe.proto", package="rfd_tf.caffe", syntax="proto2"
    )
    for message, fields in _MESSAGES.items():
        proto = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            field = proto.field.add(name=name, number=number, label=label)
            if kind in _MESSAGES:
                field.type = field_type.TYPE_MESSAGE
                field.type_name = f".rfd_tf.caffe.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
            if repeated and kind in ("int64", "float", "double"):
                field.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
