"""A client of feature models that TensorFlow Serving serves, over gRPC or REST."""

from rfd_tf.serving.client import ServingClient
from rfd_tf.serving.transport import BadInputError, ClientOptions, ServingError

__all__ = ["BadInputError", "ClientOptions", "ServingClient", "ServingError"]
