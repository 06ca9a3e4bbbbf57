"""Are pruned networks faster in fact? Latency at equal MACs, beside Torch-Pruning's result.

python -m tools.bench.pruned resnet50 0.5
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from fxplastic import plasticize, rewrite
from fxplastic.budget import plan_budget
from fxplastic.forecast import count_macs
from tools.bench.timing import ratios

MODELS = ("resnet50", "vit_base_patch16_224")
KEPT = (0.75, 0.5, 0.25)
BATCH, ROUNDS = 4, 8


def magnitudes(plastic: Any) -> dict[str, Tensor]:
    """L1 norm of each neuron's producers."""
    named = dict(plastic.named_parameters())
    found = {}
    for name, group in plastic.groups.items():
        total = torch.zeros(group.size)
        for site in group.sites:
            parameter = named.get(site.parameter)
            if parameter is None or site.role != "producer" or site.rows is not None:
                continue
            rest = [a for a in range(parameter.ndim) if a != site.axis]
            norms = parameter.detach().abs().sum(rest) if rest else parameter.detach().abs()
            total += norms[site.positions].sum(1)
        found[name] = total
    return found


def ours(name: str, kept: float, multiple: int) -> nn.Module:
    """Pruned to a part of the MACs, by a ranking over the whole network."""
    plastic = plasticize(_model(name), torch.zeros(BATCH, 3, 224, 224))
    plan = plan_budget(plastic, magnitudes(plastic), macs=kept, multiple_of=multiple)
    result: nn.Module = rewrite(plastic, plan).module
    return result.eval()


def theirs(name: str, kept: float, multiple: int) -> nn.Module:
    """Torch-Pruning to the same part of the MACs: by one ratio for all, found by halving."""
    low, high, best = 0.0, 1.0, None
    for _ in range(7):
        middle = (low + high) / 2
        model = _pruned(name, middle, multiple)
        part = macs_of(model) / macs_of(_model(name))
        best = model if best is None or part >= kept * 0.97 else best
        low, high = (middle, high) if part > kept else (low, middle)
    assert best is not None
    return best.eval()


def _pruned(name: str, ratio: float, multiple: int) -> nn.Module:
    import torch_pruning

    model = _model(name)
    heads = {m.qkv: m.num_heads for m in model.modules() if hasattr(m, "qkv")}
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        torch.zeros(1, 3, 224, 224),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=ratio,
        round_to=multiple if multiple > 1 else None,
        ignored_layers=[model.get_classifier(), *heads],
        num_heads=heads,
    )
    pruner.step()
    return model


def macs_of(model: nn.Module) -> int:
    """Multiply-accumulates of a forward at the measured batch."""
    return count_macs(plasticize(model, torch.zeros(BATCH, 3, 224, 224)))


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name).eval()
    return model


def measure(name: str, kept: float) -> dict[str, Any]:
    """Latency over the whole model's, and MACs over its MACs, for each way to prune."""
    whole, x = _model(name), torch.randn(BATCH, 3, 224, 224)
    models: dict[str, nn.Module] = {}
    failed: dict[str, str] = {}
    for label, make in {"ours": ours, "theirs": theirs}.items():
        for multiple in (1, 8):
            key = f"{label}_{multiple}"
            try:
                models[key] = make(name, kept, multiple)
            except Exception as error:  # the table has to show it
                failed[key] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    works = {key: _forward(model, x) for key, model in models.items()}
    found = ratios({"whole": _forward(whole, x), **works}, ROUNDS, "whole")
    total = macs_of(whole)
    rows = {
        key: {
            "latency": round(found[key][0], 3),
            "half": round(found[key][1], 3),
            "macs": round(macs_of(model) / total, 3),
        }
        for key, model in models.items()
    }
    return {**rows, **{key: {"error": text} for key, text in failed.items()}}


def _forward(model: nn.Module, x: Tensor) -> Callable[[], object]:
    model = copy.deepcopy(model)

    def run() -> object:
        with torch.inference_mode():
            return model(x)

    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(json.dumps(measure(sys.argv[1], float(sys.argv[2]))))
