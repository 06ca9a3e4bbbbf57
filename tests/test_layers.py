"""How the package is built: imports run one way, and no model is known by name."""

import ast
import re
from pathlib import Path

import networkx
import timm

ROOT = Path(__file__).resolve().parent.parent / "fxplastic"
SOURCES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
# Each stage may import those before it.
STAGES = (
    "fxplastic.errors",
    "fxplastic.identity",
    "fxplastic.ledger",
    "fxplastic.rules.base",
    "fxplastic.rules.combine",
    "fxplastic.rules",
    "fxplastic.propagate",
    "fxplastic.names_run",
    "fxplastic.discover",
    "fxplastic.plan",
    "fxplastic.module",
    "fxplastic.rewrite",
    "fxplastic.verify",
    "fxplastic.api",
    "fxplastic",
)


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, type-only imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fxplastic"):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & SOURCES.keys()) or {str(node.module)}
    return found


def graph() -> networkx.DiGraph:
    edges = [(name, other) for name, path in SOURCES.items() for other in imported(path)]
    return networkx.DiGraph(edges)


def test_imports_have_no_cycle():
    assert len(SOURCES) > 40
    assert list(networkx.simple_cycles(graph())) == []


def test_imports_run_from_errors_to_the_interface():
    found = graph()
    for number, stage in enumerate(STAGES):
        for later in STAGES[number + 1 :]:
            assert later not in networkx.descendants(found, stage), (stage, later)


def test_no_model_is_known_by_name():
    families = {re.split(r"[_\d]", name)[0] for name in timm.list_models()}
    words = {name for name in families if len(name) > 4} - {"twins"}  # our word for copies
    assert {"resnet", "convnext", "mambaout", "efficientnet"} <= words
    for path in (path for name, path in SOURCES.items() if not name.startswith("fxplastic.zoo")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        names |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        texts = {
            n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in words
        }
        assert not texts, path
        assert not {name.lower() for name in names} & words, path
