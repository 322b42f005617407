"""What a zoo entry is, as Markdown for people."""

from zoo.registry import info


def model_card(name: str) -> str:
    """The model card of an entry, as Markdown.

    Raises:
        ZooError: if there is no such entry.
    """
    entry = info(name)
    known = "unknown until its first verified download"
    rows = [
        ("Format", entry.format),
        ("Architecture", entry.architecture or "none (data)"),
        ("File in the cache", entry.file_name),
        ("Size", f"{entry.size:,} bytes" if entry.size else known),
        ("SHA-256", entry.sha256 or known),
        ("Licence", entry.licence),
    ]
    lines = [f"# {entry.name}", "", entry.description, "", "| | |", "|---|---|"]
    lines += [f"| {label} | {value} |" for label, value in rows]
    lines += _preprocessing_lines(entry.preprocessing)
    lines += ["", "## Links", ""]
    lines += [f"- <{link}>" for link in entry.links] or ["- none: give a file (`--from_file`)"]
    lines += ["", "## Citation", "", entry.citation]
    if entry.notes:
        lines += ["", "## Notes", "", entry.notes]
    if entry.architecture:
        lines += ["", "## Use", "", "```python", "import zoo", f'backbone = zoo.load("{entry.name}")', "```"]
    return "\n".join(lines) + "\n"


def _preprocessing_lines(preprocessing) -> list[str]:
    if preprocessing is None:
        return []
    height, width = preprocessing.input_size
    low, high = preprocessing.value_range
    return [
        f"| Input | {height} x {width}, {preprocessing.channel_order} in [{low:g}, {high:g}] |",
        f"| Mean | {', '.join(map(str, preprocessing.mean))} |",
        f"| Standard deviation | {', '.join(map(str, preprocessing.std))} |",
    ]
