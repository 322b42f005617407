"""Every field of a config of `rfd detect`, with its default. The other files of this folder edit some."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fast R-CNN (Girshick, ICCV 2015) on PASCAL VOC 2007, as RFD (Feng et al., CVPR 2019) trains it."""
    config = ConfigDict()
    config.kind = "detect"
    config.seed = 0
    config.steps = 200_000  # a multiple of log_steps
    config.log_steps = 1000  # a row of the history, and a checkpoint, every so many steps
    config.batch_size = 2  # images a step over all replicas
    config.strategy = "one_device"  # or "mirrored", "multi_worker" (TF_CONFIG)
    config.logical_cpus = 0  # mirrored without GPUs: split the CPU into so many devices
    config.dtype_policy = "float32"  # or "mixed_bfloat16"; "auto": that where the device has bfloat16
    config.deterministic = True  # bit-equal runs on one device; False is faster on GPUs
    config.checkpoint_steps = 0  # checkpoint every so many steps besides
    config.keep_checkpoints = 2
    config.tensorboard = True

    # Images with annotated objects: to learn from, and to measure on.
    config.data = voc_fields("trainval")
    config.data.classes = ()  # of own data in VOC's format; ("*",): all names found, sorted; (): VOC's 20
    config.validation = voc_fields("test")

    config.proposals = ConfigDict(
        {
            # "selective_search", computed here, or "mat": Fast R-CNN's files
            "source": "selective_search",
            "mode": "fast",  # of selective search, or "quality", "single"
            "min_side": 1,  # of its boxes, in pixels
            "folder": "",  # keeps them, for other runs too; "": the run's own cache
            "processes": 0,  # images at once; 0: one a core
            "mat_files": (),  # one or more of "mat"; together they must have every image
            "convention": "",  # of these files, see `mat_files.read_mat`; "": as they look
            "most": 0,  # the first so many of an image; 0: all
        }
    )

    config.detector = ConfigDict(
        {
            "feature": "conv5",  # the network's map that regions are pooled from
            "stride": 16,  # pixels a cell of it
            "frozen": "conv1",  # the network up to this map stays as it is; "": all of it learns
            "ceil_pools": True,  # max pools round up, as Caffe's; sizes other than 224 show it
            "fold_batch_norm": True,  # into the layers before, as in the network released for VOC
            "pretrained_dense": True,  # fc6 and fc7 begin as the network's own, not at random
            "pool_size": 6,
            "dense_width": 4096,
            "dropout": 0.5,
            # For box targets a box is x2 - x1 wide, as in Fast R-CNN's code; False: x2 - x1 + 1
            "exclusive_deltas": True,
        }
    )

    config.regions = ConfigDict(
        {
            "count": 128,  # a step, over all images
            "foreground_share": 0.25,
            "learn_difficult": True,  # objects marked difficult, like any other
        }
    )
    config.scales = (480, 576, 688, 864, 1200)  # of the short side in training; one is drawn for an image
    config.longest = 2000  # pixels of the long side at most

    config.optimizer = ConfigDict(
        {
            "milestones": ((80_000, 1e-3), (160_000, 1e-4), (200_000, 1e-5)),  # (until step, rate)
            "warmup_epochs": 0,
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 5e-4,  # coupled; not of biases
            "bias_rate": 2.0,  # the rate of biases, over that of weights
            "clip_norm": 0.0,  # of all gradients together; 0 for none
        }
    )

    # How images are tested, see `detection.DetectionOptions`.
    config.test = ConfigDict(
        {
            "short_sides": (600,),
            "longest": 1000,
            "score": 0.0,  # detections of a lower one are dropped
            "nms_iou": 0.3,
            "most": 0,  # detections in an image; 0: all
            "most_of_class": 100,  # of a class in an image, before overlaps are dropped; 0: all
            "average_of_class": 40,  # likewise, but an image's average over the whole test set; 0: all
            "round_results": True,  # VOC's files and figures: three decimals of a score, one of a corner
            # The detector that is saved, and COCO's figures, keep these only; 0: as in the test
            "saved_score": 0.05,
            "saved_most": 100,
        }
    )
    config.draw = 20  # test images that are drawn with what was found in them
    return config


def voc_fields(split: str) -> ConfigDict:
    """Where annotated images come from."""
    return ConfigDict(
        {
            "source": "voc_devkit",  # or "voc_tfds"
            "root": "",  # the devkit's folder; for voc_tfds its data_dir
            "year": "2007",
            "split": split,
            "limit": 0,  # the first so many images; 0: all
            # Boxes are in images turned as their EXIF says; False: in images as they are stored
            "exif_orientation": True,
            "boxes": "",  # a box that is not within its image is an error; "clip": is clipped to it
        }
    )
