"""`rfd train` as one worker of a Slurm job: srun --ntasks=4 --ntasks-per-node=1 python slurm_worker.py FLAGS

Sets TF_CONFIG by Slurm's variables and runs `rfd train FLAGS`, which want --config.strategy=multi_worker.
"""

import json
import os
import subprocess
import sys

import tensorflow as tf

PORT = 2222

resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
    {"worker": int(os.environ["SLURM_NTASKS"])},
    port_base=PORT,
    gpus_per_node=1,  # only counted: which GPUs a worker sees is Slurm's to say
    gpus_per_task=1,
    auto_set_gpu=False,
)
cluster = resolver.cluster_spec().as_dict()
task = {"type": "worker", "index": int(os.environ["SLURM_PROCID"])}
os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
sys.exit(subprocess.call(["rfd", "train", *sys.argv[1:]]))
