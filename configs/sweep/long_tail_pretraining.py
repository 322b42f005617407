"""What pretraining without labels gives on long-tailed CIFAR-10: RFD with either rotation head, two controls.

    rfd rotations --config=cifar10_lt --out=prob.dat --config.data.source=npz \
        --config.data.root=cifar10_lt.npz --config.data.long_tail.profile=
    rfd sweep --config=long_tail_pretraining --config.data=cifar10_lt.npz --config.probabilities=prob.dat \
        --workdir=/tmp/pretraining

`data` is a file of arrays train_images, train_labels, test_images and test_labels. Controls: a network as
initialised, its batch-norm statistics of an epoch, one that has learnt nothing but rotations, and one that
has learnt nothing but to tell instances apart. Each is measured by kNN and linear classifiers on frozen
features, and as the start of LDAM-DRW. `network`, `pretraining`, `schedule` and `finetuning` hold the flags
of another recipe than the full one.
"""

from ml_collections import ConfigDict

_DATA = (
    "--config.data.source=npz --config.data.root={data} --config.data.long_tail.profile= "
    "--config.seed={seed} {network}"
)
_PRETRAIN = f"train --config=cifar10_lt --workdir={{dir}} --config.validation.source= {_DATA} {{pretraining}}"
_FROZEN = (
    "evaluate --model={dir} --config=evaluate_cifar10_lt --config.seed={seed} --config.data.root={data} "
    "--config.validation.root={data} \"--config.features=('pool','features')\""
)
_MEASURE = (
    f"{_FROZEN} --protocol=knn",
    f"{_FROZEN} --protocol=linear \"--config.classifier.losses=('cross_entropy','balanced_softmax')\"",
    "train --config=classify --workdir={dir}/evaluations/finetuned --config.init={dir}/backbone.keras "
    "--config.validation.source=npz --config.validation.root={data} "
    f"\"--config.backbone.features=('block1','block2','block3','pool','fc_block')\" {_DATA} {{finetuning}}",
)
_STANDING_STILL = (
    '--config.epochs=1 "--config.optimizer.milestones=((1,1e-30),)" --config.optimizer.warmup_epochs=0 '
    "--config.optimizer.weight_decay=0.0"
)


def get_config():
    config = ConfigDict()
    config.kind = "sweep"
    config.seeds = (0, 1, 2)
    config.data = "cifar10_lt.npz"
    config.probabilities = "prob.dat"
    config.network = "--config.backbone.name=resnet14 --config.backbone.width=32"
    config.pretraining = ""
    config.schedule = ""  # epochs, rates and what else depends on them
    config.finetuning = ""
    config.variants = {
        "untrained": (f"{_PRETRAIN} {_STANDING_STILL}", *_MEASURE),
        "rotnet": (f'{_PRETRAIN} {{schedule}} "--config.method.loss_weights=(1.0,0.0,0.0)"', *_MEASURE),
        "instance": (f'{_PRETRAIN} {{schedule}} "--config.method.loss_weights=(0.0,0.0,1.0)"', *_MEASURE),
        "rfd": (f"{_PRETRAIN} {{schedule}}", *_MEASURE),
        "rfd_ldam": (
            f"{_PRETRAIN} {{schedule}} --config.method.rotation_head=ldam "
            "--config.rotation_probabilities.path={probabilities}",
            *_MEASURE,
        ),
    }
    return config
