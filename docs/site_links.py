"""Links that lead out of `docs/`: to a page of the site where there is one, else plain text."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Files of the repository that the site shows as a page of its own.
PAGES = {
    "CONTRIBUTING.md": "docs/contributing.md",
    "CHANGELOG.md": "docs/changes.md",
    "README.md": "docs/index.md",
}
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"(^(?P<fence>`{3,})(?!\{).*?^(?P=fence)`*$)", re.MULTILINE | re.DOTALL)


def turned(text: str, root: Path, folder: Path, drawn: str) -> str:
    """The text of a page as the site needs it; code blocks stay as they are.

    Args:
        text: a page in MyST Markdown.
        root: folder of the repository.
        folder: folder that the page lies in.
        drawn: path from there to the folder of drawn pictures, written ``_generated`` on pages.

    >>> page = "see [how](../CHANGELOG.md#added), [it](../LICENSE)"
    >>> turned(page, Path("/r"), Path("/r/docs"), "")
    'see [how](changes.md#added), it (`LICENSE`)'
    """
    parts, last = [], 0
    for match in _FENCE.finditer(text):
        parts += [_prose(text[last : match.start()], root, folder, drawn), match[0]]
        last = match.end()
    return "".join([*parts, _prose(text[last:], root, folder, drawn)])


def _prose(text: str, root: Path, folder: Path, drawn: str) -> str:
    def link(match: re.Match[str]) -> str:
        if "://" in match["target"]:
            return match[0]
        path = Path(os.path.normpath(folder / match["target"]))
        if not path.is_relative_to(root) or path.is_relative_to(root / "docs"):
            return match[0]
        name = path.relative_to(root).as_posix()
        if name in PAGES:
            target = Path(os.path.relpath(root / PAGES[name], folder)).as_posix()
            return f"[{match['text']}]({target}{match['anchor'] or ''})"
        return match["text"] if match["text"].strip("`") == name else f"{match['text']} (`{name}`)"

    return _LINK.sub(link, text).replace("_generated/", f"{drawn}/")
