"""Links of README and docs: `python scripts/links.py` names those that lead nowhere.

Three things are checked, without a network: files and headings that a relative link names, pages
that no other page links to, and paths of pages and modules in text. The site of `make docs` uses
this file as a hook, which turns links that leave docs/ into plain paths.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CODE = re.compile(r"^(```|~~~).*?^\1[^\n]*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *#*$", re.MULTILINE)
MENTION = re.compile(r"(?<![\w/])docs/[\w./-]+\.(?:md|png|gif)\b")
CODE_PATH = re.compile(
    r"(?<![\w/])(?:suite|optimizers|tasks|tests|scripts|benchmarks|configs)/[\w/]+\.(?:py|sh|yaml)\b"
)
MENTIONING = {".py", ".sh", ".yaml", ".yml", ".md", ".toml", ".jinja"}


def tracked() -> list[Path]:
    """The files of the working tree that git knows, or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (ROOT / name for name in names.splitlines())
    return [path for path in paths if path.is_file()]


def links(page: Path) -> Iterator[str]:
    """The relative targets that a page links to or shows."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        if "://" not in match["target"] and not match["target"].startswith("mailto:"):
            yield match["target"]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names that a page's headings have in links."""
    text = re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", page.read_text("utf-8"), flags=re.DOTALL | re.M)
    return frozenset(slug(match[1]) for match in HEADING.finditer(text))


def slug(heading: str) -> str:
    """A heading as it stands in a link: words in lower case, joined by hyphens."""
    words = LINK.sub(lambda match: match["text"], heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def destination(page: Path, target: str) -> Path:
    """The file or folder that a link of a page leads to."""
    name = target.partition("#")[0]
    return (page.parent / name).resolve() if name else page


def fault(page: Path, target: str) -> str | None:
    """What is wrong with a link, None where it leads somewhere."""
    path, anchor = destination(page, target), target.partition("#")[2]
    if not path.exists():
        return "there is no such file"
    if anchor and path.suffix == ".md" and anchor not in anchors(path):
        return f"{path.relative_to(ROOT)} has no such heading"
    return None


def broken(pages: list[Path]) -> Iterator[str]:
    """A line for each link that leads nowhere."""
    for page in pages:
        for target in links(page):
            if reason := fault(page, target):
                yield f"{page.relative_to(ROOT)}: {target}: {reason}"


def unlinked(pages: list[Path]) -> Iterator[str]:
    """A line for each page of docs/ that no other page links to."""
    reached = {destination(page, target) for page in pages for target in links(page)}
    for page in pages:
        if (ROOT / "docs") in page.parents and page not in reached:
            yield f"{page.relative_to(ROOT)}: no page links to it"


def mentioned(files: list[Path]) -> Iterator[str]:
    """A line for each path that a file mentions and that does not exist.

    Pages mention code and pages, code mentions pages.
    """
    for file in files:
        if file.suffix in MENTIONING or file.name == "Makefile":
            patterns = (MENTION, CODE_PATH) if file.suffix == ".md" else (MENTION,)
            text = file.read_text(encoding="utf-8")
            names = {name for pattern in patterns for name in pattern.findall(text)}
            for name in sorted(name for name in names if not (ROOT / name).exists()):
                yield f"{file.relative_to(ROOT)}: mentions {name}, which does not exist"


def main() -> int:
    """Print what is wrong; 1 where something is."""
    files = tracked()
    pages = [file for file in files if file.suffix == ".md"]
    faults = [*broken(pages), *unlinked(pages), *mentioned(files)]
    print("\n".join(faults) if faults else f"links: {len(pages)} pages are whole")
    return 1 if faults else 0


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs calls this for each page: what a link names outside docs/ is no part of the site."""
    source = ROOT / "docs" / page.file.src_uri

    def shown(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("#"):
            return match[0]
        path = destination(source, target)
        if (ROOT / "docs") in path.parents and not path.is_dir():
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        text = match["text"].strip("`").rstrip("/")
        return f"`{name}`" if text == name else f"{match['text']} (`{name}`)"

    return LINK.sub(shown, markdown)


if __name__ == "__main__":
    sys.exit(main())
