"""CITATION.cff and CHANGELOG.md are what tools read them as; the drawing of the method is its script's."""

import re
import runpy
import xml.etree.ElementTree as ElementTree

import yaml

import rfd_tf
from tests.docs.documents import ROOT


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == rfd_tf.__version__
    assert citation["license"] == "MIT"
    paper = citation["references"][0]
    assert paper["title"] == "Self-Supervised Representation Learning by Rotation Feature Decoupling"
    assert [author["family-names"] for author in paper["authors"]] == ["Feng", "Xu", "Tao"]


def test_the_changelog_keeps_its_format():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"(?m)^## (.*)$", text)
    assert releases[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release) for release in releases[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"(?m)^### (.*)$", text)) <= kinds


def test_the_drawing_is_what_its_script_draws():
    script = ROOT / "docs" / "images" / "method.py"
    text = script.with_suffix(".svg").read_text(encoding="utf-8")
    assert text == runpy.run_path(str(script))["drawing"](), "run `python docs/images/method.py`"
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text  # readable on dark pages
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)  # nothing is fetched
