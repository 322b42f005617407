"""A table of all that was measured on each kind of machine, with ratios, and goals met and missed.

    python -m benchmarks.table

reads `benchmarks/results/*/*.json`.
"""

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
HEADER = ("point", "what", "rfd_tf", "instead", "ratio", "goal", "")


def table(records: list[dict]) -> str:
    """Markdown: the rows by point, then why goals were missed."""
    rows = sorted((row for record in records for row in record["rows"]), key=lambda row: row["point"])
    lines = [_line(HEADER), _line(["---"] * len(HEADER)), *(_line(_cells(row)) for row in rows)]
    missed = [f"- {row['what']}: {row['why']}" for row in rows if row["met"] is False]
    return "\n".join([*lines, *(["", "Missed:", *missed] if missed else [])])


def _cells(row: dict) -> list[str]:
    verdict = {True: "met", False: "**missed**", None: ""}[row["met"]]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    theirs = "" if row["theirs"] is None else f"{_figure(row['theirs'])} ({row['against']})"
    return [
        str(row["point"]),
        row["what"],
        f"{_figure(row['ours'])} {row['unit']}",
        theirs,
        ratio,
        row["goal"],
        verdict,
    ]


def _figure(figures: dict) -> str:
    text = f"{figures['median']:.4g}"
    return text if figures["rounds"] == 1 else f"{text} [{figures['low']:.3g}, {figures['high']:.3g}]"


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    folders = sorted(path for path in RESULTS.iterdir() if path.is_dir())
    for folder in folders:
        records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
        print(f"### {folder.name}\n")
        for place in sorted({_place(record) for record in records}):
            print(place)
        print(f"\n{table(records)}\n")
    if not folders:
        raise SystemExit(f"Nothing was measured yet: {RESULTS} is empty. `make bench` measures.")
    print("Medians [least, most] of the rounds. 7, GPU: `python -m benchmarks.gpu`.")


def _place(record: dict) -> str:
    machine = record["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, {machine['memory']}; "
        f"{packages}"
    )


if __name__ == "__main__":
    main()
