from keras import ops

from rfd_tf.rotations import NUM_ROTATIONS


def rotation_invariance_loss(invariant_features):
    """Mean squared distance of each view's features to the mean over its image's four views; a scalar.

    Args:
        invariant_features: [4 * B, D], the views of an image side by side (see `rotations.four_views`).

    The mean is held constant: no gradient passes through it.

    Reference: Feng et al., CVPR 2019, section 3.3 (RFD).
    """
    width = invariant_features.shape[-1]
    by_image = ops.reshape(invariant_features, (-1, NUM_ROTATIONS, width))
    mean = ops.stop_gradient(ops.mean(by_image, axis=1, keepdims=True))
    return ops.mean(ops.square(by_image - mean))
