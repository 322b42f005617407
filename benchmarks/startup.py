"""How long `rfd train --help`, `import rfd_tf` and `import zoo` take, each in a new process.

python -m benchmarks.startup
"""

import subprocess
import sys
import time

from benchmarks.harness import ROUNDS, spread
from benchmarks.outcome import Row, save

CASES = {
    "`rfd train --help`": (["-m", "rfd_tf.cli", "train", "--help"], 1.0),
    "`import rfd_tf`": (["-c", "import rfd_tf"], 0.3),
    "`import zoo`": (["-c", "import zoo"], 0.3),
    "`python -c pass`": (["-c", "pass"], None),
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for number in range(ROUNDS + 1):
        for name, (arguments, _) in CASES.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, timeout=60)
            if number:  # the first round compiles and fills the file cache
                seconds[name].append(time.perf_counter() - begin)
    rows = []
    for name, (_, limit) in CASES.items():
        figures = spread(seconds[name])
        goal, met = (f"under {limit} s", figures["median"] < limit) if limit else ("", None)
        rows.append(Row(5, name, "s", figures, goal=goal, met=met))
    save("startup", rows)


if __name__ == "__main__":
    main()
