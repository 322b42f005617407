import math

from keras import ops


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
    log_denominators = log_floor + ops.softplus(log_scores - log_floor)
    # In logarithms the positive's score cannot underflow to log(0).
    positive = log_scores[:, 0] - log_denominators[:, 0]
    negatives = ops.sum(math.log(noise) - log_denominators[:, 1:], axis=1)
    return -ops.mean(positive + negatives)
