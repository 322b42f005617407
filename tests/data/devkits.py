"""Made-up data in the VOC devkit's folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.data.images import encoded, random_image

OBJECT = """<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>
<difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object>"""


def annotation(*objects, size=(40, 30)) -> str:
    """An annotation file of (class, box counted from 1, difficult) in an image of (width, height)."""
    found = "".join(
        OBJECT.format(name=name, box=box, difficult=int(difficult)) for name, box, difficult in objects
    )
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{found}"
        "</annotation>"
    )


def write_devkit(
    folder: Path, contents: Mapping[str, Sequence], lists: Mapping[str, Sequence[str]], draw=None
) -> Path:
    """`folder`, filled as that of a year.

    Args:
        folder: such as `VOC2007`.
        contents: name -> its objects; every image is 40 x 30.
        lists: "trainval" ... -> the names in it.
        draw: makes an image of its objects; by default coloured noise.
    """
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for number, (name, objects) in enumerate(contents.items()):
        image = random_image(30, 40, seed=number) if draw is None else draw(objects, number)
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(encoded(image))
        (folder / "Annotations" / f"{name}.xml").write_text(annotation(*objects))
    for split, names in lists.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder
