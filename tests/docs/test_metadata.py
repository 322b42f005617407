"""CITATION.cff and CHANGELOG.md are what tools read them as."""

import re

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
