"""The pass knows operations, not models: no name of a model or a library's class stands in it."""

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torchvision

import fxplastic
from fxplastic.zoo import transformers

ROOT = Path(fxplastic.__file__).parent
# `api` infers input sizes from a model's own configuration; models are found by name in `models`
# alone, for `saving` and the commands.
ELSEWHERE = {"zoo", "data", "training", "trainers", "saving", "commands"}
ELSEWHERE |= {"cli.py", "api.py", "models.py"}
PASS = sorted(p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] not in ELSEWHERE)


def words(path: Path) -> Iterator[str]:
    """Every identifier, and every word of every string, docstrings and messages included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"\w+", node.value)


def library_classes() -> set[str]:
    """Classes of timm and torchvision whose names are not torch's, Python's or plain English."""
    names: set[str] = set()
    for package in (timm.models, timm.layers, torchvision.models):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".quantization" in module.name:
                continue
            try:
                found = importlib.import_module(module.name)
            except ImportError:
                continue
            names |= {
                name
                for name, thing in vars(found).items()
                if inspect.isclass(thing)
                and thing.__module__.split(".")[0] in ("timm", "torchvision")
            }
    for one in transformers.CONFIGS.values():
        names |= {one.model, one.config, one.config.removesuffix("Config")}
    # An English word in a sentence is no class: only names that could be nothing else count.
    compound = re.compile(r".+[a-z0-9][A-Z]|[A-Z]{2,}.*[a-z]|.*\d")
    return {n for n in names if compound.match(n)} - set(dir(torch.nn)) - set(dir(torch))


def model_names() -> set[str]:
    names = {*timm.list_models(), *torchvision.models.list_models()}
    return {name for name in names if re.search(r"\d|_", name)}


def test_the_pass_is_found() -> None:
    assert {"discover.py", "rewrite.py", "tracer.py"} <= {path.name for path in PASS}
    assert any(path.parent.name == "rules" for path in PASS)


@pytest.mark.filterwarnings("ignore")
def test_no_model_and_no_class_of_a_library_stands_in_the_pass() -> None:
    forbidden = library_classes() | model_names()
    assert {
        "SwinTransformer",
        "PatchEmbed",
        "ConvNeXtBlock",
        "LlamaConfig",
        "resnet18",
    } <= forbidden
    found = {(path.name, word) for path in PASS for word in words(path) if word in forbidden}
    assert not found


def test_the_pass_imports_no_model_library() -> None:
    for path in [*PASS, ROOT / "api.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"timm", "torchvision", "transformers", "sklearn", "tqdm"}, path
            assert not any(
                name.startswith(
                    ("fxplastic.zoo", "fxplastic.cli", "fxplastic.commands", "fxplastic.trainers")
                )
                for name in names
            ), path
