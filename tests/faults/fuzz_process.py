"""`python -m tests.faults.fuzz_process READER,... COUNT SEED FOLDER`: fuzz readers, print JSON lines."""

import dataclasses
import json
import os
import sys
from pathlib import Path


def main(names: str, count: str, seed: str, folder: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    from tests.faults.fuzzing import fuzz
    from tests.faults.readers import READERS

    for name in names.split(","):
        own = Path(folder, name)
        own.mkdir(parents=True)
        outcome = fuzz(READERS[name], int(count), int(seed), own)
        print(json.dumps({"reader": name, **dataclasses.asdict(outcome)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
