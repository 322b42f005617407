"""Runs of several seeds against their untrained controls: mean and standard deviation, as a Markdown table.

    python benchmarks/compare_seeds.py RUN_OF_SEED_0 RUN_OF_SEED_1 ...

reads what `rfd evaluate --model=RUN` and `rfd evaluate --model=RUN --control` left in the runs' folders.
"""

import sys
from pathlib import Path

import numpy as np

from rfd_tf.evaluation.results import EVALUATIONS_FOLDER, RESULT_FILE, headline, load_result


def first_figure(run: Path, evaluation: str) -> dict[str, float]:
    """Top-1 (11-point mAP of multi-label protocols) in % by classifier; empty where there is none."""
    path = run / EVALUATIONS_FOLDER / evaluation / RESULT_FILE
    if not path.exists():
        return {}
    found = load_result(path).figures.items()
    return {name: 100 * next(iter(headline(figures).values())) for name, figures in found}


def table(runs: list[Path], protocols: list[str]) -> str:
    lines = [
        "| top-1 or mAP in % | trained | untrained control | gain | least gain |",
        "|---|---:|---:|---:|---:|",
    ]
    for protocol in protocols:
        trained = [first_figure(run, protocol) for run in runs]
        control = [first_figure(run, f"{protocol}-control") for run in runs]
        for name in trained[0]:
            if not all(name in found for found in (*trained, *control)):
                continue
            ours, theirs = (np.array([found[name] for found in side]) for side in (trained, control))
            cells = [spread(ours), spread(theirs), spread(ours - theirs), f"{(ours - theirs).min():+.1f}"]
            lines.append(f"| {protocol}, {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: np.ndarray) -> str:
    deviation = values.std(ddof=1) if len(values) > 1 else float("nan")
    return f"{values.mean():.1f} ± {deviation:.1f}"


def main() -> None:
    runs = [Path(argument) for argument in sys.argv[1:]]
    if not runs:
        sys.exit(__doc__)
    found = {path.parent.name for run in runs for path in run.glob(f"{EVALUATIONS_FOLDER}/*/{RESULT_FILE}")}
    protocols = sorted(name for name in found if f"{name}-control" in found)
    if not protocols:
        sys.exit(f"No protocol was run with and without --control in {', '.join(map(str, runs))}")
    print(table(runs, protocols))


if __name__ == "__main__":
    main()
