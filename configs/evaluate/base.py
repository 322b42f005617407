"""Every field of a config of `rfd evaluate`, with its default. The other files of this folder edit some."""

from ml_collections import ConfigDict

from rfd_tf.configs.base import data_fields


def get_config() -> ConfigDict:
    """The recipe of RFD's linear probes (Feng et al., CVPR 2019) on an image folder."""
    config = ConfigDict()
    config.kind = "evaluate"
    config.seed = 0
    config.batch_size = 192  # images a step over all replicas, and a batch where features are extracted
    config.strategy = "one_device"  # or "mirrored", "multi_worker" (TF_CONFIG)
    config.logical_cpus = 0  # mirrored without GPUs: split the CPU into so many devices
    config.dtype_policy = "float32"  # or "mixed_bfloat16"; of classifiers that are trained here
    config.deterministic = True  # bit-equal runs on one device; False is faster on GPUs
    config.checkpoint_steps = 0  # checkpoint every so many steps besides at every epoch's end
    config.keep_checkpoints = 3
    config.tensorboard = True
    config.callbacks = ()  # "module:factory" strings; a factory of (config, workdir) returns Keras callbacks

    # What the classifiers learn from, and what they are measured on.
    config.data = data = data_fields()
    data.source = "image_folder"
    data.split = "train"
    data.long_tail = ConfigDict({"profile": "", "ratio": 100.0, "seed": 0})  # "exp" or "step"; "" keeps all
    config.validation = validation = data_fields()
    validation.source = "image_folder"
    validation.split = "val"

    # The share of the training images whose labels are used, in (0, 1]: of each class, but at least one image
    # each. With one seed the 1 % are among the 10 %.
    config.label_fraction = 1.0
    config.label_seed = 0

    # Augmentation of the training images. Side, mean and deviation are always the model's, and test images
    # are prepared as the model says.
    config.preprocessing = ConfigDict(
        {
            # "random_crop", "random_resized_crop", "pad_crop" or "resize"; "": "random_crop" for a model that
            # sees the centre of an image, else the model's own
            "train": "",
            "resize": 0,  # short side before a random crop; 0: as the model says
            "flip": True,  # unless the model was trained on images that must not be mirrored
            "color_jitter": (),  # strengths (brightness, contrast, saturation, hue); (): off
            "color_jitter_probability": 1.0,
            "grayscale": 0.0,  # probability
            "blur": 0.0,  # probability; Gaussian
            # Keras's layers, for what trains on images: any of "rand_augment", "mixup" and "cutmix"; with the
            # last two each batch gets one of them; (): off
            "augment": (),
            "rand_augment_ops": 2,  # operations on an image
            "rand_augment_magnitude": 0.5,  # in (0, 1]
            "mixup_alpha": 0.2,
        }
    )

    config.features = ()  # the model's outputs to evaluate; (): the protocol's own choice
    config.input = "images"  # or "cached": features computed once, kept on disk; no augmentation then

    # The classifiers that gradient descent trains: one for each feature and loss.
    config.classifier = ConfigDict(
        {
            # "cross_entropy", "ldam", "ldam_drw", "focal", "class_balanced", "balanced_softmax",
            # "logit_adjusted", or "all"
            "losses": ("cross_entropy",),
            # Fine-tuning: "" for every training image once an epoch; "class_balanced" draws them with
            # replacement, by the class-balanced weights of their classes (beta)
            "sampling": "",
            # Linear probes' weights start at 0 instead of RFD's N(0, sqrt(2 / classes)): with 10 classes that
            # is a deviation of 0.45, which a short run does not unlearn; with 1000 it is 0.045.
            "zero_start": False,
            "max_margin": 0.5,  # of ldam and ldam_drw
            "scale": 30.0,
            "drw_start_epoch": 52,  # the first with class-balanced weights: four fifths, as of 200 epochs 160
            "beta": 0.9999,  # of ldam_drw and class_balanced
            "focal_gamma": 2.0,
            "tau": 1.0,  # of logit_adjusted
        }
    )
    config.epochs = 65
    config.optimizer = ConfigDict(
        {
            "milestones": ((5, 1e-2), (25, 2e-3), (45, 4e-4), (65, 8e-5)),  # (until epoch, rate)
            "warmup_epochs": 0,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,  # coupled, as PyTorch's
            "clip_norm": 0.0,  # of all gradients together; 0 for none
        }
    )

    # Linear probes: maps are max-pooled to so many positions a side; others to about 9600 values.
    config.pool_sizes = ConfigDict({"conv1": 12, "conv2": 7, "conv3": 5, "conv4": 6, "conv5": 6})

    # Non-linear probes: units of their two dense layers, the features that begin with a convolution.
    config.nonlinear = ConfigDict({"width": 4096, "convolution": ("conv4",)})

    config.finetune = ConfigDict(
        {
            "rate_factor": 1.0,  # the network's learning rate over that of the classifier
            # ("explicit", 0.1): a quadrant of each training image is rotated, and which one, and how, is
            # told as an auxiliary task of that weight; "implicit": how a patch anywhere was rotated (LoRot;
            # Moon et al., ECCV 2022)
            "localized_rotation": (),
        }
    )

    config.knn = ConfigDict({"k": (200,), "temperature": 0.07})  # one figure for each k

    # Images that the logistic regressions of the protocol `rotation` learn the four views of; 0: all.
    config.rotation = ConfigDict({"training_images": 1000})

    # c: inverse strength of the L2 penalty.
    config.logistic = ConfigDict({"max_iterations": 1000, "c": 1.0})
    return config
