"""Linear and non-linear probes: from an experiment to the figures of each."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import keras
from keras import ops

from rfd_tf.evaluation.experiment import Experiment
from rfd_tf.evaluation.features import IDENTITY, Transform, experiment_features
from rfd_tf.evaluation.results import ClassifierFigures, classification_figures
from rfd_tf.features import KerasFeatureModel
from rfd_tf.layers import AdaptiveMaxPool2D
from rfd_tf.losses import ClassifierLoss, classifier_loss, classifier_loss_names
from rfd_tf.models import ProbedModel
from rfd_tf.models.heads import default_pool_size, linear_probe, nonlinear_probe
from rfd_tf.models.inference import FEATURES, RESERVED
from rfd_tf.models.keras_file import network_copy
from rfd_tf.runs.inputs import ExtractedInputs, FeatureInputs, ImageInputs, Inputs
from rfd_tf.runs.probes import best_epochs, fit_probes, probe_scores

INPUTS = ("images", "cached")

# (feature name, its shape, whether it gives cosines, whether batch norm is synchronised, the model's name)
MakeProbe = Callable[..., keras.Model]


def feature_names(
    experiment: Experiment, published: Sequence[str], last_only: bool = False
) -> tuple[str, ...]:
    """The outputs to probe: the config's, or the published ones where the model has them, or its maps.

    Args:
        experiment: about to begin.
        published: what RFD probes of AlexNet.
        last_only: of other networks' maps take the last only.

    Returns:
        Names; `features` for a model without maps.
    """
    feature_model, wanted = experiment.feature_model, tuple(experiment.config.features)
    if wanted:
        return feature_model.check_names(wanted)
    outputs = feature_model.info.outputs
    if all(name in outputs for name in published):
        return tuple(published)
    maps = [name for name, shape in outputs.items() if name not in RESERVED and len(shape) == 3]
    return tuple(maps[-1:] if last_only else maps) or (FEATURES,)


def measure_probes(
    experiment: Experiment,
    features: Sequence[str],
    make_probe: MakeProbe,
    transform: Transform = IDENTITY,
) -> dict[str, ClassifierFigures]:
    """Train a probe for every feature and loss, all at once, and measure each after the last epoch.

    Args:
        experiment: about to begin.
        features: outputs of the model.
        make_probe: builds one.
        transform: what is kept of features on disk.

    Returns:
        By feature, or by `feature/loss` where there are several losses. Their `extra` has the best epoch's
        number and top-1.
    """
    inputs = _inputs(experiment, features, transform)
    shapes = dict(experiment.feature_model.info.outputs)
    if isinstance(inputs, FeatureInputs):
        shapes |= {name: values.shape[1:] for name, values in inputs.training.items()}
    model = fit_probes(
        experiment.run,
        inputs,
        partial(_probed_model, experiment, {name: shapes[name] for name in features}, make_probe),
    )
    return probe_figures(experiment, inputs, model)


def probe_figures(experiment: Experiment, inputs: Inputs, model: ProbedModel) -> dict[str, ClassifierFigures]:
    """The figures of a trained model's probes."""
    best = best_epochs(experiment.run, model)
    return {
        name: classification_figures(experiment.test.labels, scores, experiment.class_counts, best.get(name))
        for name, scores in probe_scores(experiment.run, inputs, model).items()
    }


def _inputs(experiment: Experiment, features: Sequence[str], transform: Transform) -> Inputs:
    """Images, or features on disk, as `config.input` says.

    Raises:
        ValueError: if it says something else.
    """
    config, feature_model = experiment.config, experiment.feature_model
    if config.input not in INPUTS:
        raise ValueError(f"`input` must be one of {INPUTS}. Received: input={config.input!r}")
    if config.input == "images":
        if isinstance(feature_model, KerasFeatureModel):
            return ImageInputs(experiment.training, experiment.test)
        return ExtractedInputs(experiment.training, experiment.test, feature_model, features)
    training, test = experiment_features(experiment, features, "_features", transform)
    return FeatureInputs(training, experiment.training.labels, test, experiment.test.labels)


def classifier_losses(experiment: Experiment) -> dict[str, ClassifierLoss]:
    """A new loss for each name in the config."""
    options = experiment.config.classifier
    return {
        name: classifier_loss(
            name,
            experiment.class_counts,
            max_margin=options.max_margin,
            scale=options.scale,
            beta=options.beta,
            focal_gamma=options.focal_gamma,
            tau=options.tau,
        )
        for name in classifier_loss_names(options.losses)
    }


def _probed_model(
    experiment: Experiment,
    shapes: Mapping[str, tuple[int, ...]],
    make_probe: MakeProbe,
    synchronized: bool,
) -> tuple[ProbedModel, dict[str, ClassifierLoss]]:
    probes, feature_of, losses = {}, {}, {}
    for feature, shape in shapes.items():
        new_losses = classifier_losses(experiment)
        for loss_name, loss in new_losses.items():
            name = f"{feature}/{loss_name}" if len(new_losses) > 1 else feature
            feature_of[name], losses[name] = feature, loss
            # Losses are compared from one start: probes of one kind begin with the same weights.
            keras.utils.set_random_seed(experiment.config.seed)
            probes[name] = make_probe(
                feature,
                shape,
                cosine=loss.cosine_head,
                synchronized=synchronized,
                name=f"{feature}_{loss_name}",
            )
    network, feature_model = None, experiment.feature_model
    if experiment.config.input != "cached" and isinstance(feature_model, KerasFeatureModel):
        # A copy, so that its variables belong to the strategy and the feature model's stay trainable.
        network = network_copy(feature_model.model, tuple(shapes))
    return ProbedModel(
        probes, feature_of, {name: loss.loss for name, loss in losses.items()}, network
    ), losses


PUBLISHED_LINEAR = ("conv1", "conv2", "conv3", "conv4", "conv5")


def run_linear(experiment: Experiment) -> dict[str, ClassifierFigures]:
    """The figures of each probe after the last epoch, by feature (and loss, where there are several).

    Reference: Feng et al., CVPR 2019 (RFD), whose figures are those of the best epoch: `extra` has them.
    """
    names = feature_names(experiment, PUBLISHED_LINEAR)
    sizes = {name: _pool_size(experiment, name) for name in names}

    def make_probe(feature, shape, **options):
        return linear_probe(
            shape,
            len(experiment.class_names),
            pool_size=sizes[feature],
            zero_start=experiment.config.classifier.zero_start,
            **options,
        )

    def pooled(feature, values):
        pool_size = sizes[feature]
        return ops.convert_to_numpy(AdaptiveMaxPool2D(pool_size)(values)) if pool_size else values

    listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
    return measure_probes(experiment, names, make_probe, Transform(f"adaptive max pool to {listed}", pooled))


def _pool_size(experiment: Experiment, feature: str) -> int:
    """Bins per side, no more than the map has positions; 0 for a vector."""
    shape = experiment.feature_model.info.outputs[feature]
    if len(shape) == 1:
        return 0
    height, width, channels = shape
    published = experiment.config.pool_sizes.get(feature)
    return min(published or default_pool_size(channels, min(height, width)), height, width)


PUBLISHED_NONLINEAR = ("conv4", "conv5")


def run_nonlinear(experiment: Experiment) -> dict[str, ClassifierFigures]:
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

    return measure_probes(
        experiment, feature_names(experiment, PUBLISHED_NONLINEAR, last_only=True), make_probe
    )
