"""What MkDocs is told about what is not in docs/.

Files outside it become pages, and links to them lead there; in the repository every link stays a relative
path, which GitHub and editors follow. In the API, packages that import their public names late have them
listed, and docstring sections that mkdocstrings does not know (`Call args`, `Reference`) look like others.
Nothing on a page may come from the network.
"""

import ast
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
# file of the repository -> page of the site
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/NOTES.md": "benchmark_notes.md",
}
_PUBLIC_NAMES = re.compile(r"<!-- public names of (\w+) -->")
_CALL_ARGS = re.compile(r"(?m)^Call (?:args|arguments):\n(?P<body>(?:    .*\n?|\n(?=    ))+)")
_REFERENCE = re.compile(r"(?m)^(?P<title>References?): (?P<body>.*(?:\n    .*)*)")
_FETCHED = re.compile(r"<(?:script|img|iframe|link(?=[^>]*stylesheet))[^>]*(?:src|href)=\"?(https?:[^\" >]*)")
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files, config):
    """Add the pages that are made of files outside docs/."""
    for source, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            text = _with_links((ROOT / source).read_text(encoding="utf-8"), posixpath.dirname(source))
            files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links from docs/ to files outside it, and late names in the API."""
    markdown = _PUBLIC_NAMES.sub(lambda match: _references(match[1]), markdown)
    return markdown if page.file.src_uri in PAGES.values() else _with_links(markdown, "docs")


def on_post_page(output, page, config):
    """Refuse what a browser would fetch from elsewhere."""
    if fetched := _FETCHED.findall(output):
        raise PluginError(f"{page.file.src_uri} loads {fetched[0]}")


def _references(package: str) -> str:
    """An entry for each of the names in a package's table `_PUBLIC`, name -> (module, name there)."""
    for node in ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_PUBLIC":
            public = ast.literal_eval(node.value)
            options = "\n    options:\n      heading: {0}.{1}\n      toc_label: {1}"
            return "\n\n".join(
                f"::: {module}.{there}" + options.format(package, name)
                for name, (module, there) in public.items()
            )
    raise ValueError(f"{package}/__init__.py has no table _PUBLIC")


def _with_links(text: str, folder: str) -> str:
    """`text`, of a file in `folder`, with its links as a page of the site has them.

    A link to a file that is no page becomes its name alone. One to a file that is not there stays, for MkDocs
    to tell.
    """

    def replaced(match: re.Match) -> str:
        shown, path, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(folder, path))
        if target in PAGES:
            return f"[{shown}]({PAGES[target]}{anchor})"
        if target.startswith("docs/"):
            return f"[{shown}]({target.removeprefix('docs/')}{anchor})"
        return shown if (ROOT / target).exists() else match[0]

    return _LINK.sub(replaced, text)


class Sections(griffe.Extension):
    """Sections of docstrings as mkdocstrings shows them well."""

    def on_instance(self, *, obj, **_):
        if obj.docstring:
            text = _CALL_ARGS.sub(_call_args, obj.docstring.value)
            text = _REFERENCE.sub(_reference, text)
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", text)


def _call_args(section: re.Match) -> str:
    body = re.sub(r"(?m)^    (\w[\w, `]*): ", r"- **`\1`**: ", section["body"])
    return f"**Call arguments:**\n\n{re.sub(r'(?m)^    ', '', body)}"


def _reference(section: re.Match) -> str:
    return f"**{section['title']}:** {' '.join(section['body'].split())}"
