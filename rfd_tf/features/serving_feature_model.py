"""Features from TensorFlow Serving, behind the interface of all feature models."""

import json
import os
from collections.abc import Sequence

import numpy as np

from rfd_tf.features.feature_model import FeatureModel, ModelInfo, check_feature_maps
from rfd_tf.serving import ServingClient

# Options that commands, which know the address only, take from the environment.
ENVIRONMENT = {
    "token": "RFD_TF_SERVING_TOKEN",
    "certificate": "RFD_TF_SERVING_CERTIFICATE",
    "client_certificate": "RFD_TF_SERVING_CLIENT_CERTIFICATE",
    "client_key": "RFD_TF_SERVING_CLIENT_KEY",
}


class ServingFeatureModel(FeatureModel):
    """Features by a served model.

    Args:
        client: of the server; closed with this feature model.

    Raises:
        ServingError: if the server cannot be reached or has no such model.
        ValueError: if it is not an exported model of this package.
    """

    def __init__(self, client: ServingClient):
        where = client.address.text
        super().__init__(ModelInfo.from_json(json.dumps(client.about()), where), where)
        self.client = client

    def _extract(self, images: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        return self.client.features(images, names)

    def close(self) -> None:
        self.client.close()


def open_serving(
    address: str, feature_maps: Sequence[str] | None = None, **serving_options
) -> ServingFeatureModel:
    """Opens a served model.

    Args:
        address: `grpc://HOST:PORT/NAME` and so on, see `ServingClient`.
        feature_maps: feature maps that are wanted; None for all that the model was exported with.
        **serving_options: of `ServingClient`. Token and certificates that are not given come from the
            variables `RFD_TF_SERVING_TOKEN`, `..._CERTIFICATE`, `..._CLIENT_CERTIFICATE`, `..._CLIENT_KEY`.

    Raises:
        ServingError, ValueError: as `ServingFeatureModel`; ValueError if the model lacks a feature map.
    """
    for option, variable in ENVIRONMENT.items():
        if value := os.environ.get(variable):
            serving_options.setdefault(option, value)
    client = ServingClient(address, **serving_options)
    try:
        feature_model = ServingFeatureModel(client)
        check_feature_maps(feature_model.info, feature_maps, address)
        return feature_model
    except BaseException:
        client.close()
        raise
