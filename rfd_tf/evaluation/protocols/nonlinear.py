"""Non-linear probes of feature maps, on the frozen network."""

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.probing import feature_names, measure_probes
from rfd_tf.evaluation.results import ClassifierFigures
from rfd_tf.models.probes import nonlinear_probe

PUBLISHED = ("conv4", "conv5")


def run(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """The figures of each probe after the last epoch, by feature (and loss, where there are several).

    Features on disk are whole maps here: 13 x 13 x 256 values an image for AlexNet's conv5.

    Reference: Feng et al., CVPR 2019 (RFD), whose figures are those of the best epoch: `extra` has them.
    """
    options = experiment.config.nonlinear

    def make_probe(feature, shape, **others):
        return nonlinear_probe(
            shape,
            len(experiment.class_names),
            convolution=feature in options.convolution,
            width=options.width,
            **others,
        )

    return measure_probes(experiment, feature_names(experiment, PUBLISHED, last_only=True), make_probe)
