"""Two messages of TensorFlow Serving that tensorflow-serving-api leaves out, by their published definitions.

`tensorflow_serving/servables/tensorflow/session_bundle_config.proto` and `config/monitoring_config.proto`:
names, numbers and types of the fields; those of BatchingParameters that all versions since 2.3 have.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_PACKAGE = "rfd_tf.tests"
_FIELD = descriptor_pb2.FieldDescriptorProto


def batching_parameters():
    """An empty BatchingParameters."""
    return _new("BatchingParameters")


def monitoring_config():
    """An empty MonitoringConfig."""
    return _new("MonitoringConfig")


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="rfd_tf_tests_serving.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    batching = file.message_type.add(name="BatchingParameters")
    for number, (name, kind) in enumerate(
        [
            ("max_batch_size", "Int64Value"),
            ("batch_timeout_micros", "Int64Value"),
            ("max_enqueued_batches", "Int64Value"),
            ("num_batch_threads", "Int64Value"),
            ("thread_pool_name", "StringValue"),
        ],
        start=1,
    ):
        _add(batching, name, number, _FIELD.TYPE_MESSAGE, f".google.protobuf.{kind}")
    _add(batching, "allowed_batch_sizes", 6, _FIELD.TYPE_INT64).label = _FIELD.LABEL_REPEATED
    _add(batching, "pad_variable_length_inputs", 7, _FIELD.TYPE_BOOL)
    prometheus = file.message_type.add(name="PrometheusConfig")
    _add(prometheus, "enable", 1, _FIELD.TYPE_BOOL)
    _add(prometheus, "path", 2, _FIELD.TYPE_STRING)
    monitoring = file.message_type.add(name="MonitoringConfig")
    _add(monitoring, "prometheus_config", 1, _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.PrometheusConfig")
    return file


def _add(message, name: str, number: int, kind: int, type_name: str | None = None):
    optional = _FIELD.LABEL_OPTIONAL
    return message.field.add(name=name, number=number, type=kind, type_name=type_name, label=optional)


def _new(name: str):
    descriptor = _POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    return message_factory.GetMessageClass(descriptor)()


_POOL = descriptor_pool.DescriptorPool()
_POOL.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
_POOL.Add(_file())
