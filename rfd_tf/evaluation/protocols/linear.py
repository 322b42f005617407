"""Linear probes of every feature map at once, on the frozen network."""

from keras import ops

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.probing import feature_names, measure_probes
from rfd_tf.evaluation.results import ClassifierFigures
from rfd_tf.layers import AdaptiveMaxPool2D
from rfd_tf.models.probes import default_pool_size, linear_probe

PUBLISHED = ("conv1", "conv2", "conv3", "conv4", "conv5")


def run(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """The figures of each probe after the last epoch, by feature (and loss, where there are several).

    Reference: Feng et al., CVPR 2019 (RFD), whose figures are those of the best epoch: `extra` has them.
    """
    names = feature_names(experiment, PUBLISHED)
    sizes = {name: _pool_size(experiment, name) for name in names}

    def make_probe(feature, shape, **options):
        return linear_probe(shape, len(experiment.class_names), pool_size=sizes[feature], **options)

    def pooled(feature, values):
        pool_size = sizes[feature]
        return ops.convert_to_numpy(AdaptiveMaxPool2D(pool_size)(values)) if pool_size else values

    listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
    return measure_probes(experiment, names, make_probe, pooled, f"adaptive max pool to {listed}")


def _pool_size(experiment: Experiment, feature: str) -> int:
    """Bins per side; 0 for a vector."""
    shape = experiment.extractor.info.outputs[feature]
    if len(shape) == 1:
        return 0
    height, width, channels = shape
    return experiment.config.pool_sizes.get(feature) or default_pool_size(channels, min(height, width))
