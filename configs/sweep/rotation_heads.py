"""The rotation head against itself: softmax, and LDAM's forms of margins, on a folder of photographs.

    rfd rotations --config=image_folder --config.data.root=photos/train --out=prob.dat
    rfd sweep --config=rotation_heads --config.data=photos/train --config.test=photos/val \
        --config.probabilities=prob.dat --workdir=/tmp/heads

All but `softmax` weigh views by the probabilities, as RFD does. `ldam` is `rotation_head=ldam` as it is by
default; `rotation`, `group`, `image` and `none` are its forms at a scale and a weight (`balanced`) that make
the rotation loss's gradient on the backbone as large as the softmax head's. `recipe` holds flags for all.
"""

from ml_collections import ConfigDict

_TRAIN = (
    "train --config=image_folder --workdir={dir} --config.seed={seed} --config.data.root={data} "
    "--config.validation.source=image_folder --config.validation.root={test} "
    "--config.knn.every_epochs=0 {recipe}"
)
_WEIGHTED = f"{_TRAIN} --config.rotation_probabilities.path={{probabilities}}"
_MEASURE = tuple(
    f"evaluate --model={{dir}} --protocol={protocol} --config=evaluate_folder --config.data.root={{data}} "
    "--config.validation.root={test} --config.data.split= --config.validation.split= "
    "\"--config.features=('pool','features')\""
    for protocol in ("knn", "logistic")
)


def get_config():
    config = ConfigDict()
    config.kind = "sweep"
    config.seeds = (0, 1, 2)
    config.data = "photos/train"
    config.test = "photos/val"
    config.probabilities = "prob.dat"
    config.recipe = ""
    config.balanced = (
        '--config.ldam.scale=10.0 --config.ldam.max_margin=0.2 "--config.method.loss_weights=(0.5,1.0,0.3)"'
    )
    heads = {
        "softmax": _TRAIN,
        "softmax_weighted": _WEIGHTED,
        "ldam": f"{_WEIGHTED} --config.method.rotation_head=ldam",
    }
    for form in ("none", "rotation", "group", "image"):
        heads[form] = f"{heads['ldam']} --config.ldam.margins={form} {{balanced}}"
    config.variants = {name: (command, *_MEASURE) for name, command in heads.items()}
    return config
