"""Draws the method: `python docs/images/method.py` writes method.svg beside this file.

Labels can be read at a phone's width, and the colours follow the reader's light or dark scheme.
"""

from pathlib import Path

WIDTH, HEIGHT = 860, 308
STYLE = """
  text { font: 21px system-ui, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; fill: #1d2733;
         text-anchor: middle; dominant-baseline: central; }
  .paper { fill: #ffffff; }
  .muted { fill: #55606d; }
  .box { fill: #e6ebf3; stroke: #4a5f7f; stroke-width: 1.5; }
  .arrow { fill: none; stroke: #55606d; stroke-width: 1.8; marker-end: url(#head); }
  .head { fill: #55606d; }
  .rotation .box { fill: #fbe9dd; stroke: #c45b12; }
  .rotation .cell { fill: #c45b12; }
  .invariant .box { fill: #dff1ea; stroke: #0b6e4f; }
  .invariant .cell { fill: #0b6e4f; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .paper { fill: #0d1117; }
    .muted { fill: #9aa5b1; }
    .box { fill: #1e2a3d; stroke: #7f97bd; }
    .arrow { stroke: #9aa5b1; }
    .head { fill: #9aa5b1; }
    .rotation .box { fill: #3a2213; stroke: #f0883e; }
    .rotation .cell { fill: #f0883e; }
    .invariant .box { fill: #0f3026; stroke: #3fb68b; }
    .invariant .cell { fill: #3fb68b; }
  }
"""
# A house, a tree and the sun, in a square from -1 to 1.
SCENE = """
    <rect x="-1" y="-1" width="2" height="2" fill="#cfe3f5"/>
    <rect x="-1" y="0.35" width="2" height="0.65" fill="#9cc27c"/>
    <rect x="-0.62" y="-0.1" width="0.86" height="0.72" fill="#f4e3c3"/>
    <path d="M-0.75-0.1h1.12L-0.19-0.62z" fill="#b5523b"/>
    <rect x="-0.3" y="0.22" width="0.24" height="0.4" fill="#7a4a2b"/>
    <rect x="0.56" y="0.15" width="0.12" height="0.45" fill="#7a4a2b"/>
    <circle cx="0.62" cy="-0.02" r="0.28" fill="#3f7d4e"/>
    <circle cx="0.66" cy="-0.68" r="0.17" fill="#f5c242"/>
"""


def main() -> None:
    Path(__file__).with_suffix(".svg").write_text(drawing(), encoding="utf-8")


def drawing() -> str:
    """The text of method.svg."""
    middle = 154
    parts = [scene(64, middle, 50, 0), label(64, middle + 70, "no label", "muted")]
    for quarter, height in enumerate((40, 116, 192, 268)):
        parts += [
            arrow(120, middle, 170, height),
            scene(207, height, 31, 90 * quarter),
            label(270, height, f"{90 * quarter}°", "muted"),
            arrow(298, height, 342, middle + (height - middle) / 3),
        ]
    parts += [box(348, middle - 55, 122, 110, "backbone"), arrow(474, middle, 506, middle)]
    parts.append(group("rotation", column(512, middle - 104), box(632, 22, 206, 62, "which rotation?")))
    parts.append(
        group(
            "invariant",
            column(512, middle + 4),
            box(632, 123, 206, 62, "alike in all four"),
            box(632, 224, 206, 62, "which image?"),
        )
    )
    parts += [arrow(554, 94, 626, 56), arrow(554, 196, 626, 158), arrow(554, 216, 626, 252)]
    parts.append(label(529, middle + 128, "features", "muted"))
    body = "\n".join(f"  {part}" for part in parts)
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {size}>
  <title>Rotation feature decoupling</title>
  <style>{STYLE}  </style>
  <defs>
    <marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" orient="auto">
      <path class="head" d="M0 0 10 5 0 10z"/>
    </marker>
    <g id="scene">{SCENE}    </g>
  </defs>
  <rect class="paper" {size} rx="10"/>
{body}
</svg>
"""


def scene(x: float, y: float, half: float, degrees: int) -> str:
    """The image, turned counter-clockwise."""
    return f'<use href="#scene" transform="translate({x} {y}) rotate({-degrees}) scale({half})"/>'


def label(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{text}</text>'


def box(x: float, y: float, width: float, height: float, text: str) -> str:
    shape = f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="9"/>'
    return shape + label(x + width / 2, y + height / 2, text)


def column(x: float, y: float) -> str:
    """Half of a feature: five cells of various values."""
    return "".join(
        f'<rect class="cell" x="{x}" y="{y + 20 * cell}" width="34" height="17" opacity="{opacity}"/>'
        for cell, opacity in enumerate((0.85, 0.55, 1, 0.7, 0.45))
    )


def group(kind: str, *parts: str) -> str:
    return f'<g class="{kind}">{"".join(parts)}</g>'


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<path class="arrow" d="M{x} {y} {to_x} {to_y:g}"/>'


if __name__ == "__main__":
    main()
