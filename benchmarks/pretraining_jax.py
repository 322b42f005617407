"""Pretraining on long-tailed images with its controls, on one GPU through Keras on JAX.

    KERAS_BACKEND=jax python -m benchmarks.pretraining_jax --data=cifar10_lt.npz --out=results.csv

trains `RotationDecoupling` as `configs/pretrain/cifar10_lt.py` says, for each variant and seed:
RFD, its parts alone, an untrained network, and RFD with an imbalanced rotation head; then measures the frozen
features by kNN and a linear probe with balanced softmax and, with `--finetune`, as the start of
`configs/classify/classify.py` on all labels. `--data` may be a folder with `train` and `val`, too, each
of one folder per class; its images are reduced to squares of 5/4 `--size` first.
The images stay on the GPU as uint8, and an epoch (order, augmentation, all steps) is one compiled `lax.scan`
over Keras's own `train_step`. Models, losses, optimizer, probes and figures are the package's. The
augmentation is `rfd_tf.data`'s written once more in JAX: the same distributions, other draws.

`--held_out=0.2` trains on 80 % of the training images and measures on the others, to choose settings by.
"""

import csv
import math

import jax
import jax.numpy as jnp
import keras
import numpy as np
from absl import app, flags
from jax import lax
from PIL import Image, ImageOps

from rfd_tf import data, imbalance
from rfd_tf.callbacks import DeferredReweighting
from rfd_tf.configs.classify import classify
from rfd_tf.configs.evaluate import evaluate_cifar10_lt
from rfd_tf.configs.pretrain import cifar10_lt
from rfd_tf.evaluation.results import classification_figures
from rfd_tf.losses import LDAMLoss, classifier_loss
from rfd_tf.metrics import nearest_neighbours, weighted_votes
from rfd_tf.models import (
    InstanceTask,
    ProbedModel,
    RotationDecoupling,
    RotationTask,
    create_backbone,
    linear_probe,
)
from rfd_tf.models.heads import classifier
from rfd_tf.optimizers import CoupledSGD
from rfd_tf.optimizers.sgd import milestone_schedule

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "data", "cifar10_lt.npz", "arrays train_images, train_labels, test_images, test_labels; or a folder"
)
flags.DEFINE_string("out", "pretraining.csv", "the table")
flags.DEFINE_list("variants", "rfd,rotation,instance,untrained", "of VARIANTS")
flags.DEFINE_list("seeds", "0,1,2", "")
flags.DEFINE_integer("epochs", 140, "")
flags.DEFINE_integer("size", 32, "side of the images")
flags.DEFINE_integer("finetune", 0, "epochs of training on the labels from each backbone; 0: none")
flags.DEFINE_string("probabilities", "", "file of `rfd rotations` for the imbalanced heads")
flags.DEFINE_integer("limit", 0, "use so many training images; 0: all")
flags.DEFINE_float("held_out", 0.0, "share of the training images to measure on instead of the test images")
flags.DEFINE_string("dtype_policy", "mixed_bfloat16", "of pretraining")

# Weights of rotation, invariance and instance loss; None: those of the config.
VARIANTS = {"rfd": None, "rotation": (1.0, 0.0, 0.0), "instance": (0.0, 0.0, 1.0), "untrained": None}
# Imbalanced rotation heads, by the form of their margins, balanced as in `configs/sweep/rotation_heads.py`.
MARGINS = ("rotation", "group", "image", "none")
VARIANTS |= {f"{form}_margins": (0.5, 1.0, 0.3) for form in MARGINS}
_SCALE, _MAX_MARGIN = 10.0, 0.2
FEATURES = ("pool", "fc_block")
LUMA = np.array([0.299, 0.587, 0.114], "float32")


def main(_argv):
    config = cifar10_lt.get_config()
    if FLAGS.data.endswith(".npz"):
        arrays = np.load(FLAGS.data)
        images, labels = arrays["train_images"], arrays["train_labels"].astype("int32")
        test = arrays["test_images"], arrays["test_labels"].astype("int32")
    else:
        images, labels = folder_images(f"{FLAGS.data}/train")
        test = folder_images(f"{FLAGS.data}/val")
        config.preprocessing.mean, config.preprocessing.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if FLAGS.held_out:
        held = held_out_rows(labels, FLAGS.held_out)
        test = images[held], labels[held]
        images, labels = np.delete(images, held, axis=0), np.delete(labels, held)
    if FLAGS.limit:
        rows = np.sort(np.random.default_rng(777).permutation(len(labels))[: FLAGS.limit])
        images, labels = images[rows], labels[rows]
    test = centres(test[0]), test[1]
    with open(FLAGS.out, "w", newline="") as file:
        writer = None
        for seed in map(int, FLAGS.seeds):
            for variant in FLAGS.variants:
                backbone, figures = pretrained(config, images, variant, seed)
                figures |= measured(backbone, config, (centres(images), labels), test, seed)
                if FLAGS.finetune:
                    figures |= finetuned(backbone, config, (centres(images), labels), test, seed)
                row = {
                    "variant": variant,
                    "seed": seed,
                    "images": len(labels),
                    "epochs": FLAGS.epochs,
                    **figures,
                }
                if writer is None:
                    writer = csv.DictWriter(file, list(row))
                    writer.writeheader()
                writer.writerow(row)
                file.flush()
                print(row, flush=True)


def folder_images(folder):
    """Squares of 5/4 `--size` out of the middle of a folder's images, and their labels."""
    source = data.open_source("image_folder", folder)
    side = FLAGS.size * 5 // 4

    def square(name):
        with Image.open(f"{folder}/{name}") as image:
            image = ImageOps.exif_transpose(image).convert("RGB")
            return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR))

    return np.stack([square(name) for name in source.files]), np.asarray(source.labels, "int32")


def centres(images):
    """Images of `--size` to measure on: larger ones are reduced to 9/8 of it and their centres cut out."""
    if images.shape[1] == FLAGS.size:
        return images
    side = FLAGS.size * 9 // 8
    reduced = jax.image.resize(images.astype("float32"), (len(images), side, side, 3), "linear")
    start = (side - FLAGS.size) // 2
    cut = slice(start, start + FLAGS.size)
    return np.asarray(jnp.clip(jnp.round(reduced), 0, 255).astype("uint8"))[:, cut, cut]


def held_out_rows(labels, share):
    """A share of each class, at least one image; the same for every seed."""
    rng = np.random.default_rng(12345)
    classes = [rng.permutation(np.flatnonzero(labels == c)) for c in range(labels.max() + 1)]
    return np.concatenate([rows[: max(1, round(share * len(rows)))] for rows in classes])


def pretrained(config, images, variant, seed):
    """A backbone and what its training said."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    names, size = tuple(config.backbone.features), FLAGS.size
    backbone = create_backbone(config.backbone.name, (size, size, 3), names, width=config.backbone.width)
    batch = min(config.batch_size, len(images) // 4)
    if variant == "untrained":
        settle(backbone, config, centres(images), batch, seed)
        return backbone, {"rotation_accuracy": math.nan, "instance_loss": math.nan}
    method = config.method
    rotation_task, changes = imbalanced_head(variant, len(images))
    model = RotationDecoupling(
        backbone,
        len(images),
        feature_name=config.backbone.feature,
        rotation_task=rotation_task,
        instance_task=InstanceTask(
            loss=method.instance_loss,
            num_negatives=method.num_negatives,
            temperature=method.temperature,
            embedding_dim=method.embedding_dim,
            momentum=method.momentum,
            seed=seed,
        ),
        loss_weights=VARIANTS[variant] or method.loss_weights,
    )
    model.compile(optimizer(config.optimizer, config.epochs, FLAGS.epochs, len(images) // batch))
    model.optimizer.build(model.trainable_variables)

    def batch_of(rows, key, images):
        one, two = jax.random.split(key)
        pixels = images[rows]
        crops = [augmented(pixels, crop, config.preprocessing) for crop in (one, two)]
        found = {"image": crops[0], "index": rows}
        return ({**found, "second_image": crops[1]} if config.preprocessing.crops == 2 else found,)

    given = jnp.asarray(images)
    logs = train(model, batch_of, given, len(images), batch, FLAGS.epochs, seed, changes(model))
    return backbone, {name: round(logs[name], 5) for name in ("rotation_accuracy", "instance_loss")}


def imbalanced_head(variant, num_instances):
    """The rotation task, and a function from it to what changes in its training, by epoch."""
    if not variant.endswith("_margins"):  # "rotation" is rotation alone, "rotation_margins" a head
        return RotationTask(), lambda model: {}
    form = variant.removesuffix("_margins")
    probabilities = data.load_rotation_probabilities(FLAGS.probabilities, num_instances)
    weights = imbalance.rotation_instance_weights(probabilities)
    margin = _MAX_MARGIN if form == "rotation" else 0.0
    start = round(0.8 * FLAGS.epochs)

    def changes(model):
        model.set_instance_weights(weights)

        def begin():
            model.instance_weighting.assign(1.0)
            reweight(model, start, 0.9999)

        return {start: begin}

    loss = LDAMLoss(imbalance.effective_rotation_counts(weights), margin, _SCALE)
    view_margins = imbalance.view_margins(weights, form, _MAX_MARGIN)
    return RotationTask("cosine", loss, use_instance_weights=True, view_margins=view_margins), changes


def reweight(model, epoch, beta, loss=None):
    """What `DeferredReweighting` does as its epoch begins."""
    callback = DeferredReweighting(epoch, beta, loss)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(epoch)


def optimizer(config, of_epochs, epochs, steps_per_epoch):
    """The config's SGD, its schedule of `of_epochs` shortened to `epochs`."""
    share = epochs / of_epochs
    milestones = [(round(until * share), rate) for until, rate in config.milestones]
    warmup = math.ceil(config.warmup_epochs * share)
    schedule = milestone_schedule(milestones, steps_per_epoch, warmup)
    return CoupledSGD(schedule, config.momentum, config.nesterov, config.weight_decay)


def train(model, batch_of, data, count, batch, epochs, seed, changes=None):
    """`epochs` of Keras's `train_step` on the device; the metrics of the last. The model is left trained.

    `changes` maps an epoch to what to do as it begins: a function that assigns variables.
    """

    def epoch_of(state, data, key):
        order_key, key = jax.random.split(key)
        rows = jax.random.permutation(order_key, count)[: count // batch * batch].reshape(-1, batch)

        def step(state, given):
            logs, state = model.train_step(state, batch_of(*given, data))
            return tuple(map(list, state)), logs

        state, logs = lax.scan(step, state, (rows, jax.random.split(key, len(rows))))
        return state, jax.tree.map(lambda values: values[-1], logs)

    compiled = jax.jit(epoch_of, donate_argnums=0)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )

    def values():  # copies: what is given to `compiled` is gone afterwards
        return tuple([jnp.array(v.value, copy=True) for v in group] for group in groups)

    def assign(state):
        for group, found in zip(groups[:3], state[:3], strict=True):
            for variable, value in zip(group, found, strict=True):
                variable.assign(jnp.array(value, copy=True))

    state = values()
    for epoch in range(epochs):
        if changes and epoch in changes:
            assign(state)
            changes[epoch]()
            state = values()
        state = (*state[:3], [jnp.zeros_like(v) for v in state[3]])
        state, logs = compiled(state, data, jax.random.fold_in(jax.random.key(seed), epoch))
    assign(state)
    return {name: float(value) for name, value in logs.items()}


def settle(backbone, config, images, batch, seed):
    """Batch-norm statistics of three passes over the images: the untrained control."""
    order = np.random.default_rng(seed).permutation(len(images))
    for _ in range(3):
        for start in range(0, len(order) - batch + 1, batch):
            backbone(normalized(images[order[start : start + batch]], config.preprocessing), training=True)


def normalized(pixels, config):
    return (jnp.asarray(pixels, "float32") / 255.0 - np.array(config.mean, "float32")) / np.array(
        config.std, "float32"
    )


def augmented(pixels, key, config):
    """Random resized crop, flip, colour jitter and greyscale of uint8 images [B, S, S, 3], normalised."""
    crop_key, flip_key, color_key = jax.random.split(key, 3)
    images = resized_crops(pixels, crop_key, config.min_area)
    mirrored = jax.random.uniform(flip_key, (len(images), 1, 1, 1)) < 0.5
    images = jnp.where(mirrored, images[:, :, ::-1], images)
    return normalized(recolored(images, color_key, config), config)


def resized_crops(pixels, key, min_area, tries=10):
    """`rfd_tf.data.augmentation` of square images to `--size`; float32 in 0..255."""
    count, side = pixels.shape[:2]
    drawn = jax.random.uniform(key, (count, 2 * tries + 2))
    area = side * side * (min_area + (1.0 - min_area) * drawn[:, :tries])
    aspect = 0.75 * jnp.exp(math.log((4 / 3) / (3 / 4)) * drawn[:, tries:-2])
    widths, heights = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (widths >= 1) & (widths <= side) & (heights >= 1) & (heights <= side)
    first, found = jnp.argmax(fits, axis=1)[:, None], fits.any(axis=1)
    chosen = [jnp.take_along_axis(sizes, first, 1)[:, 0] for sizes in (heights, widths)]
    height, width = (jnp.where(found, size, side) for size in chosen)
    top, left = (
        jnp.minimum(jnp.floor(drawn[:, place] * (side - size + 1)), side - size)
        for place, size in ((-2, height), (-1, width))
    )

    def weights(starts, lengths):
        """[B, size, side]: what each pixel adds to each resized one, with antialiasing where it shrinks."""
        scale = (lengths / FLAGS.size)[:, None, None]
        centres = (jnp.arange(FLAGS.size) + 0.5)[None, :, None] * scale + starts[:, None, None]
        places = jnp.arange(side)[None, None, :] + 0.5
        inside = (places > starts[:, None, None]) & (places < (starts + lengths)[:, None, None])
        shares = jnp.maximum(0.0, 1.0 - jnp.abs(centres - places) / jnp.maximum(scale, 1.0)) * inside
        return shares / shares.sum(axis=2, keepdims=True)

    rows = jnp.einsum("nih,nhwc->niwc", weights(top, height), pixels.astype("float32"), precision="highest")
    return jnp.einsum("njw,niwc->nijc", weights(left, width), rows, precision="highest")


def recolored(images, key, config):
    """`rfd_tf.data.augmentation.random_color` without the blur."""
    count, keys = len(images), jax.random.split(key, 4)
    strengths = tuple(config.color_jitter) or (0.0,) * 4
    signed = 2.0 * jax.random.uniform(keys[0], (4, count, 1, 1, 1)) - 1.0
    factors = [1.0 + strengths[i] * signed[i] for i in range(3)]
    order = jnp.argsort(jax.random.uniform(keys[1], (count, 4)), axis=1)[..., None, None, None]

    def grey(x):
        return (x * LUMA).sum(axis=-1, keepdims=True)

    steps = (
        lambda x: x * factors[0],
        lambda x: grey(x).mean(axis=(1, 2), keepdims=True) * (1 - factors[1]) + x * factors[1],
        lambda x: grey(x) * (1 - factors[2]) + x * factors[2],
        lambda x: hue_turned(x, strengths[3] * signed[3]),
    )
    changed = images
    for place in range(4):
        options = [jnp.clip(step(changed), 0.0, 255.0) for step in steps]
        changed = jnp.select([order[:, place] == i for i in range(4)], options)
    jittered = jax.random.uniform(keys[2], (count, 1, 1, 1)) < config.color_jitter_probability
    images = jnp.where(jittered, changed, images)
    return jnp.where(jax.random.uniform(keys[3], (count, 1, 1, 1)) < config.grayscale, grey(images), images)


def hue_turned(x, turns):
    """The hue of HSV moved by `turns` of its circle."""
    red, green, blue = (x[..., c : c + 1] for c in range(3))
    high, span = x.max(-1, keepdims=True), jnp.ptp(x, axis=-1, keepdims=True)
    safe = jnp.where(span > 0, span, 1.0)
    by_channel = ((green - blue) / safe % 6.0, (blue - red) / safe + 2.0, (red - green) / safe + 4.0)
    hue = jnp.select([high == red, high == green], by_channel[:2], by_channel[2])
    hue = jnp.where(span > 0, hue, 0.0) + 6.0 * turns

    def channel(n):
        place = (n + hue) % 6.0
        return high - span * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)

    return jnp.concatenate([channel(5.0), channel(3.0), channel(1.0)], -1)


def measured(backbone, config, training, test, seed):
    """Top-1 by kNN and by linear probes on each feature, and of the two rarest classes by the probe."""
    (images, labels), (test_images, test_labels) = training, test
    probing, counts = evaluate_cifar10_lt.get_config(), imbalance.class_counts_of(labels, 10)
    part = keras.Model(backbone.inputs[0], {name: backbone.output[name] for name in FEATURES})
    infer = jax.jit(lambda t, o, x: part.stateless_call(t, o, x, training=False)[0])
    values = [[v.value for v in group] for group in (part.trainable_variables, part.non_trainable_variables)]

    def features(pixels):
        found = [
            infer(*values, normalized(pixels[start : start + 1000], config.preprocessing))
            for start in range(0, len(pixels), 1000)
        ]
        return {n: np.concatenate([np.asarray(f[n].astype("float32")) for f in found]) for n in FEATURES}

    known, asked = features(images), features(test_images)
    figures = {}
    for name in FEATURES:
        cosines, indices = nearest_neighbours(known[name], asked[name], 20)
        votes = weighted_votes(cosines, labels[indices], 10, probing.knn.temperature)
        figures[f"knn_{name}"] = classification_figures(test_labels, votes, counts).top1
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)
    probes = {n: linear_probe(known[n].shape[1:], 10, zero_start=True, name=f"{n}_probe") for n in FEATURES}
    losses = {n: classifier_loss("balanced_softmax", np.maximum(counts, 0.5)).loss for n in FEATURES}
    model = ProbedModel(probes, {n: n for n in FEATURES}, losses)
    batch = min(probing.batch_size, len(labels) // 4)
    model.compile(optimizer(probing.optimizer, probing.epochs, probing.epochs, len(labels) // batch))
    model.optimizer.build(model.trainable_variables)
    given = {name: jnp.asarray(value) for name, value in known.items()} | {"labels": jnp.asarray(labels)}

    def batch_of(rows, _key, given):
        return {name: given[name][rows] for name in FEATURES}, given["labels"][rows]

    train(model, batch_of, given, len(labels), batch, probing.epochs, seed)
    scores = model.predict(asked, batch_size=1000, verbose=0)
    for name in FEATURES:
        found = classification_figures(test_labels, scores[name], counts)
        figures[f"linear_{name}"] = found.top1
        figures[f"linear_rarest_{name}"] = float(
            np.mean(np.asarray(found.per_class, "float64")[np.argsort(counts)[:2]])
        )
    return {name: round(100 * value, 2) for name, value in figures.items()}


def finetuned(backbone, config, training, test, seed):
    """Top-1 of LDAM + DRW on all labels, the backbone trained along from where it is."""
    (images, labels), (test_images, test_labels) = training, test
    recipe, counts = classify.get_config(), imbalance.class_counts_of(labels, 10)
    options, batch, start = (
        recipe.classifier,
        min(recipe.batch_size, len(labels) // 4),
        round(0.8 * FLAGS.finetune),
    )
    keras.config.set_dtype_policy(FLAGS.dtype_policy)
    keras.utils.set_random_seed(seed + 100)
    feature = recipe.backbone.feature
    network = keras.Model(backbone.inputs[0], {feature: backbone.output[feature]})
    loss = classifier_loss("ldam_drw", counts, max_margin=options.max_margin, scale=options.scale)
    inputs = keras.Input((network.output[feature].shape[-1],))
    head = keras.Model(inputs, classifier(inputs, 10, loss.cosine_head, "classifier"))
    model = ProbedModel({feature: head}, {feature: feature}, {feature: loss.loss}, network, frozen=False)
    model.compile(optimizer(recipe.optimizer, recipe.epochs, FLAGS.finetune, len(labels) // batch))
    model.optimizer.build(model.trainable_variables)

    def batch_of(rows, key, given):
        corner_key, flip_key = jax.random.split(key)
        padded = jnp.pad(given["images"][rows], ((0, 0), (4, 4), (4, 4), (0, 0)))
        corners = jax.random.randint(corner_key, (batch, 2), 0, 9)
        cut = jax.vmap(lambda image, at: lax.dynamic_slice(image, (*at, 0), (FLAGS.size, FLAGS.size, 3)))
        pixels, mirrored = cut(padded, corners), jax.random.uniform(flip_key, (batch, 1, 1, 1)) < 0.5
        pixels = jnp.where(mirrored, pixels[:, :, ::-1], pixels)
        return {"image": normalized(pixels, config.preprocessing)}, given["labels"][rows]

    given = {"images": jnp.asarray(images), "labels": jnp.asarray(labels)}
    changes = {start: lambda: reweight(model, start, options.beta, loss.loss)}
    train(model, batch_of, given, len(labels), batch, FLAGS.finetune, seed, changes)
    infer = jax.jit(lambda t, o, x: model.stateless_call(t, o, {"image": x}, training=False)[0][feature])
    values = [
        [v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    scores = np.concatenate(
        [
            np.asarray(infer(*values, normalized(test_images[i : i + 1000], config.preprocessing)), "float32")
            for i in range(0, len(test_images), 1000)
        ]
    )
    found = classification_figures(test_labels, scores, counts)
    rarest = np.mean(np.asarray(found.per_class, "float64")[np.argsort(counts)[:2]])
    return {"finetuned": round(100 * found.top1, 2), "finetuned_rarest": round(100 * float(rarest), 2)}


if __name__ == "__main__":
    app.run(main)
