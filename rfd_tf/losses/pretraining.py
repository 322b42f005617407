"""RFD's losses on features: rotation invariance, and telling instances apart."""

import math

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


def nce_loss(similarities, normalizer, num_instances: int, epsilon: float = 1e-7):
    """Noise-contrastive estimation of each instance against uniformly drawn others; a float32 scalar.

    With `s_ij = exp(similarities_ij) / Z`, K negatives, noise density Pn = 1/N:
    `-(1/B) sum_i [log(s_i0 / (s_i0 + K Pn + eps)) + sum_j log(K Pn / (s_ij + K Pn + eps))]`.

    Args:
        similarities: [B, 1 + K] inner products over temperature, column 0 the positive.
        normalizer: Z, a positive scalar held constant.
        num_instances: N, the number of instances the negatives are drawn from.
        epsilon: as in the original.

    Reference: Wu et al., CVPR 2018, section 3.2 (NPID).
    """
    noise = (similarities.shape[1] - 1) / num_instances
    log_scores = similarities - ops.log(ops.stop_gradient(normalizer))
    # log(exp(s) + Pn + eps) without the exponential, which overflows where the temperature is low.
    log_floor = math.log(noise + epsilon)
    excess = ops.softplus(log_scores - log_floor)
    # In logarithms the positive's score cannot underflow to log(0).
    positive = log_scores[:, 0] - log_floor - excess[:, 0]
    # Of `log(noise) - log_denominator` the part that all K terms share is summed in double precision, here:
    # the difference of two numbers near log(K / N) would lose the small part that tells them apart.
    shared = (similarities.shape[1] - 1) * (math.log(noise) - log_floor)
    negatives = shared - ops.sum(excess[:, 1:], axis=1)
    return -ops.mean(positive + negatives)


def instance_softmax_loss(similarities, positives=None):
    """Cross-entropy of telling each instance among others; a scalar of the similarities' dtype.

    `-(1/B) sum_i [similarities_ip - log sum_j exp(similarities_ij)]`, p the column of i's own row. With all N
    rows of the bank as columns it is the non-parametric softmax of NPID, with the own row and K drawn
    negatives InfoNCE. There is no normalizer to estimate: it is right at every N.

    Args:
        similarities: [B, R] inner products over temperature.
        positives: [B] integer columns of the own rows; None where column 0 holds all of them.

    Reference: Wu et al., CVPR 2018, equation 2 (NPID); van den Oord et al., 2018, equation 4 (InfoNCE).
    """
    if positives is None:
        own = similarities[:, 0]
    else:
        positives = ops.expand_dims(ops.cast(positives, "int32"), -1)
        own = ops.squeeze(ops.take_along_axis(similarities, positives, axis=1), axis=-1)
    return ops.mean(ops.logsumexp(similarities, axis=1) - own)
