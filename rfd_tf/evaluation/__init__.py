"""Measuring what features are worth, by protocols.

Each is a function in a module beside this one,

    run_PROTOCOL(experiment: Experiment) -> dict[str, Figures]

which measures one classifier or several, by name, on `experiment.test`. Started again in the same workdir, it
goes on where it was stopped.
"""

PROTOCOLS = {
    "knn": "weighted k nearest neighbours by cosine",
    "logistic": "logistic regression on frozen features, a quick check",
    "linear": "linear probes of every feature map at once",
    "nonlinear": "non-linear probes of feature maps",
    "finetune": "fine-tuning of the whole network",
    "rotation": "how well either half of the features tells the rotation",
    "voc_classification": "the classes in PASCAL VOC's images: fc6-8, fine-tuning or linear SVMs",
}
