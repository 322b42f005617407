"""All measurements, one after the other, then one table.

    python -m benchmarks [NAME ...]

Each writes its result when it is done: stopped in between, what was measured stays. The longest one (memory
over a thousand steps of detection) is run by hand; see `benchmarks/README.md`.
"""

import shlex
import subprocess
import sys

from benchmarks import table

ALL = (
    "startup",
    "training_step",
    "memory_bank",
    "input_pipeline",
    "input_pipeline --training",
    "input_pipeline --feeding",
    "input_pipeline --epochs=10",
    "features",
    "extraction",
    "roi_pooling",
    "detection",
)
LIMIT_SECONDS = 900


def main() -> int:
    failed = []
    for name in sys.argv[1:] or ALL:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", *shlex.split(f"benchmarks.{name}")]
        try:
            subprocess.run(command, check=True, timeout=LIMIT_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            failed.append(f"{name}: {error}")
    table.main()
    if failed:
        print("\nNot measured this time:", *failed, sep="\n- ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
