"""What the site needs beyond mkdocs: files of the repository that pages link to are part of it.

Pages are read on the site and beside the code. A link that leaves docs/ leads, on the site, to a copy: Markdown (the
changelog) as a page, anything else as the file it is: a notebook to download, the rest to be read in the browser.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = ("CHANGELOG.md", "SECURITY.md")
"""Of the repository's root, that are pages of the site."""
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name in PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text()))
    linked = {target for file in files.documentation_pages() for target in _outside(file)}
    for target in sorted(linked):
        files.append(File.generated(config, _copy(target), content=(ROOT / target).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = page.file.src_uri
    return LINK.sub(lambda found: _on_site(found[1], source), markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Say of the Chinese pages that they are Chinese: browsers choose the shapes of characters by it."""
    chinese = page.file.src_uri.startswith("zh/")
    return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1) if chinese else output


def _outside(file: File) -> set[str]:
    """The files outside of docs/, and no pages, that a page links to."""
    found = {_in_repository(link, file.src_uri) for link in LINK.findall(file.content_string)}
    return {path for path in found if not path.startswith("docs/") and path not in PAGES and (ROOT / path).is_file()}


def _copy(target: str) -> str:
    """Where a file of the repository stands on the site."""
    return f"source/{target}" if target.endswith(".ipynb") else f"source/{target}.txt"


def _in_repository(link: str, page: str) -> str:
    folder = "" if page in PAGES else posixpath.join("docs", posixpath.dirname(page))
    return posixpath.normpath(posixpath.join(folder, link))


def _on_site(link: str, page: str) -> str:
    target = _in_repository(link, page)
    if target.startswith("docs/"):
        target = target.removeprefix("docs/")
    elif target not in PAGES and (ROOT / target).is_file():
        target = _copy(target)
    return posixpath.relpath(target, posixpath.dirname(page) or ".")
