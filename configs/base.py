"""Every field of a training config, with its default. The other files of this folder edit some of them."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """RFD's pretraining (reference: Feng et al., CVPR 2019) of AlexNet on an image folder."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 245
    config.batch_size = 192  # images a step over all replicas; four views each
    config.strategy = "one_device"  # or "mirrored", "multi_worker" (TF_CONFIG)
    config.logical_cpus = 0  # mirrored without GPUs: split the CPU into so many devices
    config.init = ""  # start from a backbone: a .keras file or zoo:NAME
    config.dtype_policy = "float32"  # or "mixed_bfloat16"
    config.deterministic = True  # bit-equal runs on one device; False is faster on GPUs
    config.checkpoint_steps = 0  # checkpoint every so many steps besides at every epoch's end
    config.keep_checkpoints = 3
    config.tensorboard = True

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
        }
    )

    config.backbone = ConfigDict(
        {
            "name": "alexnet",  # or "resnet8" ... "resnet110", "keras.applications.NAME"
            "features": (),  # its outputs; (): those of the published network
            "feature": "fc_block",  # the one that is split in halves
            "width": 0,  # channels of a CIFAR ResNet's first block; 0: the standard width
            "dense_width": 0,  # units of fc_block; 0: the standard width
        }
    )

    config.method = ConfigDict(
        {
            "rotation_head": "softmax",  # or "ldam": cosine classifier, LDAM margins, DRW
            "loss_weights": (1.0, 1.0, 1.0),  # rotation, invariance, instance
            "embedding_dim": 128,
            "num_negatives": 4096,
            "temperature": 0.07,
            # (low, high, period in epochs): swings between the two instead (Kukleva et al., ICLR 2023)
            "temperature_swing": (),
            "momentum": 0.5,  # of the memory bank
        }
    )

    # The rotation-agnostic images: a prob.dat file, from which epoch on it weighs the views.
    config.rotation_probabilities = ConfigDict({"path": "", "gamma": 2.0, "start_epoch": 210})

    # Of rotation_head="ldam"; DRW from start_epoch on.
    config.ldam = ConfigDict({"max_margin": 0.5, "scale": 30.0, "beta": 0.9999, "start_epoch": 210})

    config.optimizer = ConfigDict(
        {
            # (until epoch, rate)
            "milestones": ((90, 1e-2), (130, 1e-3), (190, 1e-4), (210, 1e-5), (230, 1e-4), (245, 1e-5)),
            "warmup_epochs": 0,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,  # coupled, as PyTorch's
        }
    )

    # Of the online kNN accuracy, and of `rfd summary`. feature "": the one that is split in halves.
    config.knn = ConfigDict(
        {"feature": "", "every_epochs": 1, "k": 200, "temperature": 0.07, "max_images": 10_000}
    )
    return config


def data_fields() -> ConfigDict:
    """Where pictures come from."""
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
