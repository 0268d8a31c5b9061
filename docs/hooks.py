"""Pages of the site that lie elsewhere: notebooks, and files of the repository's root.

They stay where readers of the repository look for them, and no text is written twice.
"""

import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "layout.md": "cache/README.md",
    "security.md": "SECURITY.md",
}
"""Pages of the site, by the file that each shows."""
TARGETS = {
    r"(?:\.\./)?docs/([\w/.-]+)": r"\1",
    r"(?:\.\./)*cache/README\.md": "layout.md",
    r"(notebooks/\w+)\.ipynb": r"\1.md",
    r"(CHANGELOG|CONTRIBUTING|SECURITY)\.md": lambda found: f"{found[1].lower()}.md",
}
"""Where links lead, from the root of the repository and in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=with_links_of_the_site(text)))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        body, resources = MarkdownExporter().from_notebook_node(nbformat.read(notebook, 4))
        for name, picture in resources["outputs"].items():
            place = f"notebooks/{notebook.stem}_{name}"
            files.append(File.generated(config, place, content=picture))
            body = body.replace(f"({name})", f"({notebook.stem}_{name})")
        text = f"{body}\nThis page is the notebook `notebooks/{notebook.name}`.\n"
        page = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, page, content=with_links_of_the_site(text, up="../")))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Point links of our pages at files of the repository's root to the pages that show them."""
    return re.sub(r"\]\((?:\.\./)*cache/README\.md", "](layout.md", markdown)


def with_links_of_the_site(text: str, *, up: str = "") -> str:
    """Return a text of the repository's root with the links that it has in the site."""
    for target, place in TARGETS.items():
        written = place if callable(place) else (lambda found, place=place: found.expand(place))
        text = re.sub(
            rf"(?<=\]\(){target}", lambda found, written=written: up + written(found), text
        )
    return text
