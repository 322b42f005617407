"""Lists, annotations and tables."""

import random
from pathlib import Path

from tests.faults.fuzzing import Reader
from tests.faults.mutations import mutated
from tests.faults.readers.samples import real

_ANNOTATION = b"""<annotation><size><width>40</width><height>30</height><depth>3</depth></size><object>
<name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>30</ymax>
</bndbox></object></annotation>"""
_LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY f SYSTEM "file:///etc/passwd">]>
<annotation>&c;&f;</annotation>"""
_XML_TOKENS = (
    *(
        b"<!DOCTYPE a [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>",
        b"&a;",
        b"<![CDATA[",
        b"]]>",
        b"<!--",
        b"-->",
    ),
    *(
        b"<?xml version='1.0' encoding='utf-7'?>",
        b"<?xml version='1.0' encoding='idna'?>",
        b"<object>" * 2000,
    ),
    *(b"<?xml version='1.0' encoding='hex'?>", b"<name>dog</name>", b"</object>", b"<bndbox/>", b"<size/>"),
)


def _lines(*texts: str):
    return lambda folder: [text.encode() for text in texts]


def _text_of_pieces(pieces):
    """Lines of pieces in any order, now and then of anything."""

    def strategy(seeds):
        from hypothesis import strategies as st

        piece = st.one_of(st.sampled_from(pieces), st.sampled_from(pieces), st.text(max_size=6))
        lines = st.lists(st.lists(piece, max_size=6).map("".join), max_size=6).map("\n".join)
        return lines.map(lambda text: text.encode("utf-8", "surrogatepass"))

    return strategy


def _nested_xml(seeds):
    from hypothesis import strategies as st

    tags = st.sampled_from(["annotation", "size", "width", "height", "object", "name", "bndbox", "xmin", "b"])
    texts = st.sampled_from(["", "1", "40", "cat", "-1", "1e999", "nan", "1e18", "&lt;", "&#0;", "&x;", "²"])
    element = st.recursive(
        texts,
        lambda inner: st.builds(
            lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag}>", tags, st.lists(inner, max_size=6)
        ),
        max_leaves=12,
    )
    trees = element.map(lambda text: f"<annotation>{text}</annotation>".encode())
    tokens = st.integers(0, 2**32).map(lambda n: mutated([_ANNOTATION], _XML_TOKENS, random.Random(n)))
    return trees | tokens


def _voc(path: Path):
    from rfd_tf.data.voc import read_annotation

    return read_annotation(path)


def _voc_list(path: Path):
    from rfd_tf.data.voc import VocDevkit

    folder = path.parent / "VOC2007"
    if not folder.exists():
        from PIL import Image

        for name in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (folder / name).mkdir(parents=True)
        (folder / "Annotations" / "000005.xml").write_bytes(_ANNOTATION)
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / "000005.jpg")
        (folder / "ImageSets" / "Main" / "input.txt").symlink_to(path)
    return VocDevkit(folder, "input").targets


def _probabilities(path: Path):
    from rfd_tf.data import load_rotation_probabilities

    return load_rotation_probabilities(path, 2)


def _image_list(path: Path):
    from rfd_tf.data import ImageList

    images = path.parent / "pictures"
    images.mkdir(exist_ok=True)
    for name in ("a.jpg", "b c.jpg"):
        (images / name).touch()
    return ImageList(images, path, on_error="skip").labels


def _voc_results(path: Path):
    from rfd_tf.detection.voc_metrics import read_voc_results

    link = path.with_name("comp4_det_x_cat.txt")
    if not link.is_symlink():
        link.symlink_to(path)
    return read_voc_results(path.parent, ["000005", "000007"], ["cat"], "x")


def _history(path: Path):
    from rfd_tf.runs.workdir import read_history, trim_history

    found = read_history(path)
    trim_history(path, 1)
    return found


def _address(path: Path):
    from rfd_tf.serving.transport import parse_address

    return parse_address(path.read_bytes().decode("utf-8", "replace"))


def _voc_seeds(folder: Path) -> list[bytes]:
    return [_ANNOTATION, _LAUGHS, *real("VOCdevkit/VOC2007/Annotations/00000*.xml")]


_PLAIN = (ValueError, OSError)  # with a message that names the file
READERS = {
    "voc_xml": Reader(_voc_seeds, _voc, _PLAIN, ".xml", _XML_TOKENS, _nested_xml),
    "voc_list": Reader(
        _lines("000005\n", "000005  -1\n", "000005\n000005 1\n"),
        _voc_list,
        _PLAIN,
        ".txt",
        (b"../000005", b"000005"),
        _text_of_pieces(["000005", " ", "1", "../", "\x0b", "-", "\0"]),
    ),
    "prob_dat": Reader(
        _lines("0.25\n" * 8, "1e-7\n0\n1\n0.5\n1\n0.123456789\n0.1\n1\n"),
        _probabilities,
        _PLAIN,
        ".dat",
        (b"0.5\n", b"1_0\n", b"-0.0\n", b"infinity\n"),
        _text_of_pieces(["0.5", "1", "-0", "1e-400", "nan", "inf", "_", " ", "\r", "0x1p-1", "²"]),
    ),
    "image_list": Reader(
        _lines("a.jpg 0\nb c.jpg 1\n", '"b c.jpg",1\na.jpg,0\n', "a.jpg\nb c.jpg\n"),
        _image_list,
        _PLAIN,
        ".txt",
        (b'"', b"a.jpg", b"/a.jpg", b"../a.jpg", b",", b"999999999"),
        _text_of_pieces(
            ["a.jpg", "b c.jpg", " ", ",", "\t", '"', "0", "1", "999999999", "-1", "../", "/", "\r"]
        ),
    ),
    "voc_results": Reader(
        _lines("000005 0.9 1 2 30 40\n000007 -1.5 1.5 2 3 4\n"),
        _voc_results,
        _PLAIN,
        "",
        (b"000005 ", b"1e308 "),
        _text_of_pieces(["000005", "000007", " ", "0.9", "1e999", "-1", "nan", "\x85", "1_0"]),
    ),
    "history_csv": Reader(
        _lines("epoch,loss,val_loss\n0,1.5,2\n1,0.5,\n"),
        _history,
        _PLAIN,
        ".csv",
        (b'"', b",", b"\r", b"epoch"),
        _text_of_pieces(["epoch", "loss", ",", '"', "0", "1.5", "\r", "²", "\0"]),
    ),
    "serving_address": Reader(
        _lines("grpc://127.0.0.1:8500/tiny", "https://[::1]:8501/a/versions/3", "http://h:1/a/labels/b"),
        _address,
        (ValueError,),
        "",
        (b"[::1", b":99999", b"%00", b"@", b"/versions/", "²".encode()),
        _text_of_pieces(
            ["grpc", "http", "s", "://", "h", ":", "1", "/", "versions", "labels", "²", "[", "]", "@"]
        ),
    ),
}
