"""Calls a model on a server as often as it is asked to.

    python -m tests.distribution.calls ADDRESS '{"timeout": 5}'

reads numbers of images, one a line, and answers each with a line of JSON: the seconds that the call took, and
the features of the last image or the error.
"""

import json
import sys
import time

import numpy as np

from rfd_tf.serving import ServingClient, ServingError
from tests.serving.mean_model import SIDE


def main(address: str, options: str) -> None:
    with ServingClient(address, **json.loads(options)) as client:
        print("ready", flush=True)
        for line in sys.stdin:
            images = np.arange(int(line), dtype="float32")[:, None, None, None] + np.zeros((SIDE, SIDE, 3))
            began = time.monotonic()
            try:
                answer = {"features": client.features(images)["features"][-1].tolist()}
            except ServingError as error:
                answer = {"error": str(error)}
            print(json.dumps({"seconds": time.monotonic() - began, **answer}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
