"""Code in the README and in docs/ runs, and so do the examples in docstrings.

The Python blocks of one document run in order, in one namespace, as a reader would type them.
"""

import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import fxplastic

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#|_generated/)([^)#]+)")  # pictures are drawn by the build


def blocks(document: Path) -> list[tuple[int, str]]:
    """Line number and text of each Python block."""
    text = document.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)), m.group(1)) for m in BLOCK.finditer(text)]


WITH_CODE = [document for document in DOCUMENTS if blocks(document)]
MODULES = [m.name for m in pkgutil.walk_packages(fxplastic.__path__, "fxplastic.")]


# Of Lightning: that it asks PyTorch in an old way, and how small the loaders of examples are.
@pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
    "ignore:The 'train_dataloader' does not have many workers",
)
@pytest.mark.parametrize("document", WITH_CODE, ids=lambda path: path.name)
def test_code_in_documents_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "__document__"}
    for line, text in blocks(document):
        # Blank lines in front make a traceback show the line in the document.
        exec(compile("\n" * line + text, str(document), "exec"), namespace)


def test_links_out_of_the_docs_are_turned():
    spec = importlib.util.spec_from_file_location("site_links", ROOT / "docs" / "site_links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert doctest.testmod(module).attempted == 2
    assert doctest.testmod(module).failed == 0


MAKE = re.compile(r"make ([a-z][a-z-]+)")


def test_make_targets_and_examples_that_documents_name_exist():
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    code += "\n".join(re.findall(r"`(make [^`]+)`", text))
    assert set(MAKE.findall(code)) - targets == set()
    assert [n for n in re.findall(r"examples/\w+\.py", text) if not (ROOT / n).exists()] == []


def test_every_public_name_is_in_the_reference():
    trainers = [name for name in MODULES if name.startswith("fxplastic.trainers.")]
    public = [name for name in trainers if hasattr(importlib.import_module(name), "__all__")]
    named: dict[str, list[str]] = {name: [] for name in ["fxplastic", *public]}
    for page in ROOT.glob("docs/reference/*.md"):
        text = page.read_text(encoding="utf-8")
        parts = re.split(r"^\.\. currentmodule:: (\S+)$", text, flags=re.MULTILINE)
        assert len(parts) > 1, page.name
        for module, part in zip(parts[1::2], parts[2::2], strict=True):
            found = re.findall(r"^\.\. auto\w+:: (\w+)$", part, re.MULTILINE)
            named.setdefault(module, []).extend(found)
    for module, names in named.items():
        assert sorted(names) == sorted(importlib.import_module(module).__all__), module


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
