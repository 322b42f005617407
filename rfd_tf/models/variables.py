"""What is done with the variables of any model."""

import keras
import numpy as np


def variables_without(model: keras.Model, frozen: keras.Model | None) -> list[keras.Variable]:
    """The variables that training changes: all but those of a part that is frozen."""
    still = {id(variable) for variable in frozen.variables} if frozen else ()
    return [variable for variable in model.variables if id(variable) not in still]


def digest_weights(digest, model: keras.Model) -> None:
    """Update a digest of `hashlib` with the weights: dtype, shape and values of each."""
    for value in model.get_weights():
        digest.update(f"{value.dtype} {value.shape}\n".encode() + np.ascontiguousarray(value).tobytes())
