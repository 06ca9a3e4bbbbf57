"""Graphviz text: which parameters a group runs through, and which groups feed which."""

from __future__ import annotations

from collections.abc import Iterator

from fxplastic.flow import Step, flow
from fxplastic.module import PlasticModule
from fxplastic.reporting.wording import letter, shape_text


def group_dot(plastic: PlasticModule) -> str:
    """Groups, their parameters, and the flow of values as a DOT graph, for ``dot -Tsvg``.

    Two parts: in ``cluster_groups`` groups (boxes) make parameters (ellipses, solid edges to the
    axes that they produce) and are taken up by others (dashed edges); in ``cluster_flow`` stand the
    nodes of the graph with what lives in them. Names are escaped.

    Args:
        plastic: the module.

    Raises:
        DiscoverError: a node cannot run on meta tensors.

    >>> import torch, fxplastic
    >>> mlp = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> text = group_dot(fxplastic.plasticize(mlp, torch.zeros(2, 3)))
    >>> [line.strip() for line in text.splitlines() if "style=dashed" in line]
    ['g0 -> p2 [label="axis 1", style=dashed];']
    """
    lines = [
        "digraph fxplastic {",
        "  rankdir=TB; node [fontsize=10]; edge [fontsize=8];",
        "  subgraph cluster_groups {",
        '    label="groups and parameters";',
        *(f"    {line}" for line in _groups(plastic)),
        "  }",
        "  subgraph cluster_flow {",
        '    label="flow (eval mode)";',
        *(f"    {line}" for line in _flow(plastic)),
        "  }",
        "}",
    ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A DOT string; a line break in `text` is one in the label."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _groups(plastic: PlasticModule) -> Iterator[str]:
    parameters: dict[str, int] = {}
    for index, (name, group) in enumerate(plastic.groups.items()):
        label = f"{letter(index)}: {name}\n{group.size} neurons"
        yield f"g{index} [shape=box, label={quoted(label)}];"
        for site in group.sites:
            number = parameters.setdefault(site.parameter, len(parameters))
            look = "style=dashed" if site.role == "consumer" else "style=solid"
            yield f"g{index} -> p{number} [label={quoted(f'axis {site.axis}')}, {look}];"
    for name, number in parameters.items():
        yield f"p{number} [shape=ellipse, label={quoted(name)}];"


def _flow(plastic: PlasticModule) -> Iterator[str]:
    steps = flow(plastic).steps
    letters = {name: letter(i) for i, name in enumerate(plastic.groups)}
    number = {step.node: i for i, step in enumerate(steps)}
    for i, step in enumerate(steps):
        yield f"n{i} [shape=box, style=rounded, label={quoted(_label(step, letters))}];"
        for read in step.inputs:
            yield f"n{number[read]} -> n{i};"


def _label(step: Step, letters: dict[str, str]) -> str:
    held = dict.fromkeys(letters[h.group] for h in step.holds if h.group is not None)
    frozen = ["frozen"] if any(h.group is None for h in step.holds) else []
    lines = [f"{step.op} {step.module}".strip(), shape_text(step.shape), " ".join([*held, *frozen])]
    return "\n".join(line for line in lines if line)
