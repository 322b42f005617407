"""Every field of a training config, with its default. The other files of this folder edit some of them."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """RFD's pretraining (reference: Feng et al., CVPR 2019) of AlexNet on an image folder."""
    config = ConfigDict()
    config.kind = "pretrain"  # of run
    config.seed = 0
    config.epochs = 245
    config.batch_size = 192  # images a step over all replicas; four views each
    config.strategy = "one_device"  # or "mirrored", "multi_worker" (TF_CONFIG)
    config.logical_cpus = 0  # mirrored without GPUs: split the CPU into so many devices
    config.init = ""  # start from a backbone: a .keras file or zoo:NAME
    config.dtype_policy = "float32"  # or "mixed_bfloat16"; "auto": that where the device has bfloat16
    config.deterministic = True  # bit-equal runs on one device; False is faster on GPUs
    config.checkpoint_steps = 0  # checkpoint every so many steps besides at every epoch's end
    config.keep_checkpoints = 3
    config.tensorboard = True
    config.callbacks = ()  # "module:factory" strings; a factory of (config, workdir) returns Keras callbacks
    config.on_collapse = "warn"  # when the features collapse; or "stop"

    config.data = data = data_fields()
    data.source = "image_folder"
    data.split = "train"
    data.long_tail = ConfigDict({"profile": "", "ratio": 100.0, "seed": 0})  # "exp" or "step"; "" keeps all

    # A source to validate on, "" for none; where it is labelled it also gives the online kNN accuracy.
    config.validation = data_fields()

    config.preprocessing = ConfigDict(
        {
            "image_size": 224,
            "train": "random_resized_crop",  # or "random_crop", "pad_crop", "resize"
            "resize": 256,  # short side before a centre crop or a random crop
            "flip": True,
            "min_area": 0.08,
            "max_area": 1.0,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "fast_decoding": False,  # of JPEGs, less exactly; for random_resized_crop
            # For instance discrimination. NPID (Wu et al., CVPR 2018): jitter (0.4, 0.4, 0.4, 0.4), grey 0.2.
            # SimCLR (Chen et al., ICML 2020): (0.8, 0.8, 0.8, 0.2) with probability 0.8, grey 0.2, blur 0.5.
            "color_jitter": (),  # strengths (brightness, contrast, saturation, hue); (): off
            "color_jitter_probability": 1.0,
            "grayscale": 0.0,  # probability
            "blur": 0.0,  # probability; Gaussian
            # 2: the views turned by 90 and 270 degrees are those of a second crop, augmented independently
            "crops": 1,
        }
    )

    config.backbone = ConfigDict(
        {
            # or "resnet8" ... "resnet110", "keras.applications.NAME", "keras_cv.NAME", "keras_hub.NAME", or
            # "module:function", a function of yours from (height, width, channels) to a functional model;
            # or such a model's .keras file, whose weights it starts with
            "name": "alexnet",
            "features": (),  # its outputs; (): those of the published network, and `feature`
            "feature": "fc_block",  # the one that is split in halves
            "width": 0,  # channels of a CIFAR ResNet's first block; 0: the standard width
            "dense_width": 0,  # units of fc_block; 0: the standard width
            "norm_scale_init": "ones",  # of batch norm; "uniform" in [0, 1), as in PyTorch 1.0
        }
    )

    config.method = ConfigDict(
        {
            "rotation_head": "softmax",  # or "ldam": cosine classifier, LDAM margins, DRW
            "loss_weights": (1.0, 1.0, 1.0),  # rotation, invariance, instance
            "embedding_dim": 128,
            # "nce", the original's; or "softmax", which needs no normalizer and is right for few images, too
            "instance_loss": "nce",
            # rows of the bank to contrast with; 0, for "softmax": all up to 65,536 images, 4,096 beyond
            "num_negatives": 4096,
            "temperature": 0.07,
            # of NCE's normalizer Z: 1 keeps that of the first batch, as the original; 0.99 is a running mean
            "normalizer_momentum": 1.0,
            # (low, high, period in epochs): swings between the two instead (Kukleva et al., ICLR 2023)
            "temperature_swing": (),
            "momentum": 0.5,  # of the memory bank
            # "replicated"; or "sharded": each of R replicas keeps 1 / R of the rows and draws from its own
            "bank": "replicated",
            "bank_dtype": "float32",  # or "bfloat16", half the memory
        }
    )

    # The rotation-ambiguous images: a prob.dat file, from which epoch on it weighs the views.
    config.rotation_probabilities = ConfigDict({"path": "", "gamma": 2.0, "start_epoch": 210})

    # Of rotation_head="ldam"; DRW from start_epoch on.
    config.ldam = ConfigDict(
        {
            # Whose margins: each rotation's; or of ambiguous and rotatable views, by the rotation
            # probabilities: "group", "image" (docs/method.md); or "none", re-weighting alone
            "margins": "rotation",
            "max_margin": 0.5,
            "scale": 30.0,
            "beta": 0.9999,
            "start_epoch": 210,
        }
    )

    config.optimizer = ConfigDict(
        {
            # (until epoch, rate)
            "milestones": ((90, 1e-2), (130, 1e-3), (190, 1e-4), (210, 1e-5), (230, 1e-4), (245, 1e-5)),
            "warmup_epochs": 0,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,  # coupled, as PyTorch's
            "clip_norm": 0.0,  # of all gradients together; 0 for none
        }
    )

    # Of the online kNN accuracy, and of `rfd report --summary`. feature "": the one that is split in halves.
    config.knn = ConfigDict(
        {"feature": "", "every_epochs": 1, "k": 200, "temperature": 0.07, "max_images": 10_000}
    )
    return config


def tell_instances_apart(config: ConfigDict) -> None:
    """Change to what suits sets smaller than ImageNet: a softmax over the bank, two crops, changed colours.

    NCE's normalizer is estimated on a bank of random rows. On a small set the rows are soon alike, and the
    instance loss then drowns the others; a softmax needs no normalizer (docs/results.md has the figures).
    The colours change as SimCLR's do at half strength (Chen et al., ICML 2020).
    """
    config.method.instance_loss = "softmax"
    config.method.num_negatives = 0
    config.method.temperature = 0.2
    config.method.loss_weights = (1.0, 1.0, 0.3)
    config.preprocessing.color_jitter = (0.4, 0.4, 0.4, 0.1)
    config.preprocessing.color_jitter_probability = 0.8
    config.preprocessing.grayscale = 0.2
    config.preprocessing.crops = 2


def data_fields() -> ConfigDict:
    """Where images come from."""
    return ConfigDict(
        {
            "source": "",  # a kind of `data.open_source`
            "root": "",  # folder or file; for tfds its data_dir
            "name": "",  # tfds: the builder
            "split": "",
            "on_error": "raise",  # what to do about a corrupt image; or "skip"
            "exif_orientation": True,  # turn images as their EXIF says; False: take them as they are stored
        }
    )
