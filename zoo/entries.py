"""The entries that the project ships."""

from zoo.entry import Entry
from zoo.preprocessing import Preprocessing

_RFD = (
    "Feng, Xu, Tao: Self-Supervised Representation Learning by Rotation Feature Decoupling. CVPR 2019 "
    "(https://github.com/philiptheother/FeatureDecoupling)"
)
_RFD_LICENCE = "not stated with the file: ask the authors before you redistribute it"
_RESNET = (
    "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition. CVPR 2016; checkpoints by "
    "Y. Idelbayev (https://github.com/akamaster/pytorch_resnet_cifar10)"
)
_IMAGENET = Preprocessing(input_size=(224, 224))

_RELEASED = (
    Entry(
        name="rfd_alexnet_imagenet",
        description="AlexNet with batch norm, trained by rotation feature decoupling on unlabelled ImageNet.",
        links=("https://mega.nz/#!Wmh3WIDZ!e2TgkXEsMMpZNZvb1Tp8HsdBfeZOA3WKn5g0AkXEwAA",),
        format="torch",
        file_name="rfd_alexnet_imagenet.pth.tar",
        architecture="alexnet",
        preprocessing=_IMAGENET,
        licence=_RFD_LICENCE,
        citation=_RFD,
    ),
    Entry(
        name="rfd_alexnet_voc",
        description="The same network for PASCAL VOC: batch norm folded, then rescaled between layers.",
        links=("https://mega.nz/#!e65D3CLZ!jUvWfBt3NBcjZSI90X5mKKe-OHSswN9nWo_aPo1YCOQ",),
        format="caffemodel",
        file_name="rfd_alexnet_voc.caffemodel",
        architecture="alexnet_no_bn",
        preprocessing=_IMAGENET,
        licence=_RFD_LICENCE,
        citation=_RFD,
    ),
    Entry(
        name="rfd_rotation_probabilities_imagenet",
        description="Probability that a rotated view of an ImageNet training image looks upright, four each.",
        links=("https://mega.nz/#!brBVnQbK!AU2P0D1yh4L1V9aqP3LYsWaG464q3SD-yRg5BZ7st8c",),
        format="text",
        file_name="prob.dat",
        licence=_RFD_LICENCE,
        citation=_RFD,
        notes="One number a line; four lines (rotations 0 to 3) per image, sorted by folder, then name.",
    ),
)


def _cifar_resnet(depth: int) -> Entry:
    return Entry(
        name=f"cifar_resnet{depth}",
        description=f"CIFAR-10 ResNet-{depth} with option-A shortcuts, from a checkpoint file that you give.",
        format="torch",
        file_name=f"resnet{depth}.th",
        architecture=f"resnet{depth}",
        preprocessing=Preprocessing(input_size=(32, 32)),
        licence="BSD-2-Clause",
        citation=_RESNET,
        notes="The checkpoints are in the cited repository; give one with --from_file.",
    )


ENTRIES = (*_RELEASED, *(_cifar_resnet(depth) for depth in (20, 32, 44, 56, 110)))
