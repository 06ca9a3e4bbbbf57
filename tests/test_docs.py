"""Code in the README and in docs/ runs, and so do the examples in docstrings.

The Python blocks of one document run in order, in one namespace, as a reader would type them.
"""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import fxplastic

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def blocks(document: Path) -> list[tuple[int, str]]:
    """Line number and text of each Python block."""
    text = document.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in BLOCK.finditer(text)]


WITH_CODE = [document for document in DOCUMENTS if blocks(document)]
MODULES = [m.name for m in pkgutil.walk_packages(fxplastic.__path__, "fxplastic.")]


@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.name)
def test_code_in_documents_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "__document__"}
    for line, text in blocks(document):
        # Blank lines in front make a traceback show the line in the document.
        exec(compile("\n" * line + text, str(document), "exec"), namespace)


def test_readme_and_tutorial_hold_code():
    assert {"README.md", "tutorial.md"} <= {document.name for document in WITH_CODE}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(document: Path):
    targets = LINK.findall(document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("name", MODULES)
def test_doctests_pass(name: str):
    module = importlib.import_module(name)
    assert doctest.testmod(module, verbose=False).failed == 0
