"""Classification on PASCAL VOC 2007: learnt from trainval, measured on test.

The folder is the devkit's (VOCdevkit, with VOC2007 in it):

    rfd evaluate --model=/tmp/imagenet --protocol=voc_classification --config=voc_classification \
        --config.data.root=/data/VOCdevkit --config.validation.root=/data/VOCdevkit --config.voc.method=svm

From TensorFlow Datasets: `--config.data.source=voc_tfds` and the same for `validation`. The schedule is that
of Krähenbühl et al. (ICLR 2016) and its code: 80,000 steps of 16 images, of which trainval has 313 an epoch;
the crops are those of DeepCluster's (Caron et al., ECCV 2018), but for their aspect.

Own data in the devkit's folders: `--config.data.classes="('robin','wren')"`.
"""

from ml_collections import ConfigDict

from rfd_tf.configs.evaluate import base


def get_config():
    config = base.get_config()
    for data, split in ((config.data, "trainval"), (config.validation, "test")):
        data.source = "voc_devkit"  # or "voc_tfds"
        data.split = split
        data.year = "2007"
        data.exif_orientation = False  # as the literature reads it
        data.boxes = ""  # a box that is not within its image is an error; "clip": is clipped to it
    config.data.classes = ()  # of own data in VOC's format; ("*",): all names found, sorted; (): VOC's 20
    config.features = ("pool5",)  # of other networks than AlexNet name another
    config.batch_size = 16
    config.checkpoint_steps = 1000
    config.epochs = 256
    config.optimizer.milestones = tuple((32 * (n + 1), 1e-3 * 0.5**n) for n in range(8))
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-6
    config.optimizer.clip_norm = 10.0  # of all gradients together, as far as a replica has them; 0: none
    config.optimizer.bias_rate = 2.0  # the learning rate of biases over that of weights
    config.preprocessing.train = "random_resized_crop"
    config.preprocessing.min_area = 0.1  # share of an image that a training crop shows
    config.preprocessing.max_area = 0.5
    config.voc = ConfigDict(
        {
            # "fc6-8": new dense layers on the frozen network; "finetune": all of it is trained;
            # "svm": linear SVMs on frozen features; "low_shot_svm": on a few images of each class
            "method": "fc6-8",
            "dense_width": 4096,  # units of new fc6 and fc7
            "dropout": 0.5,
            "test_crops": 10,  # random crops of each test image, their scores averaged; 0: the centre crop
            # SVMs: the costs to choose from by cross-validation, for each class; one is taken as it is
            "costs": (*(10.0**n for n in range(-7, 3)), *(0.5**n for n in range(4, 20))),
            "folds": 3,
            "positive_weight": 2.0,  # of an image that shows the class
            "max_iterations": 2000,
            "shots": (1, 2, 4, 8, 16, 32, 64, 96),  # images of each class; 19 times as many without it
            "samples": 5,  # independent draws
            "low_shot_cost": 1.0,
        }
    )
    return config
