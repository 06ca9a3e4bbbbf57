"""Rewriting beside a deep copy of model and optimizer, and the memory that it takes beside them.

python -m tools.bench.rewriting resnet50
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxplastic import Plan, plasticize, rewrite, rewrite_
from fxplastic.module import PlasticModule
from tools.bench.timing import memory_now, memory_peak, ratios

MODELS = ("resnet50", "convnext_tiny", "vit_base_patch16_224")
TURNOVER = 0.3


def prepared(name: str, device: str = "cpu") -> tuple[PlasticModule, Optimizer]:
    """A plastic model, and an AdamW optimizer with state for all of it."""
    torch.manual_seed(0)
    model = timm.create_model(name).to(device)
    plastic = plasticize(model, torch.zeros(1, 3, 224, 224, device=device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return plastic, optimizer


def tensors_of(plastic: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    """Parameters, buffers and optimizer state."""
    state = [t for per in optimizer.state.values() for t in per.values() if torch.is_tensor(t)]
    return [*plastic.parameters(), *plastic.buffers(), *state]


def measure(name: str, rounds: int = 7) -> dict[str, Any]:
    """Times over that of a deep copy, and extra memory over that of the tensors that change."""
    plastic, optimizer = prepared(name)
    plan = Plan.random(plastic, turnover=TURNOVER)
    works = {
        "copy": lambda: copy.deepcopy((plastic, optimizer)),
        "rewrite": lambda: rewrite(plastic, plan, optimizer),
        "in_place": lambda: rewrite_(plastic, plan, optimizer),
    }
    found = ratios(works, rounds, "copy")
    tensors = tensors_of(plastic, optimizer)
    before = [t._version for t in tensors]
    start = memory_now()
    rewrite_(plastic, plan, optimizer)
    extra = memory_peak() - start
    changed = [t for t, old in zip(tensors, before, strict=True) if t._version != old]
    changed_mb = sum(t.numel() * t.element_size() for t in changed) / 2**20
    return {
        "rewrite": round(found["rewrite"][0], 2),
        "rewrite_half": round(found["rewrite"][1], 2),
        "in_place": round(found["in_place"][0], 2),
        "in_place_half": round(found["in_place"][1], 2),
        "extra_mb": round(extra),
        "changed_mb": round(changed_mb),
        "extra": round(extra / changed_mb, 2),
        **_one_group(plastic, optimizer),
    }


def _one_group(plastic: PlasticModule, optimizer: Optimizer) -> dict[str, Any]:
    """What a plan of one group writes to, beside what has that group's slots."""
    whole = Plan.random(plastic, turnover=TURNOVER)
    name = next(iter(whole.edits))
    plan = Plan(whole.source, whole.target, ((name, whole.edits[name]),))
    tensors = tensors_of(plastic, optimizer)
    before = [t._version for t in tensors]
    rewrite_(plastic, plan, optimizer)
    written = {id(t) for t, old in zip(tensors, before, strict=True) if t._version != old}
    named = {**dict(plastic.named_parameters()), **dict(plastic.named_buffers())}
    own = {id(named[site.parameter]) for site in plastic.groups[name].sites}
    own |= {
        id(t)
        for site in plastic.groups[name].sites
        for t in optimizer.state.get(named[site.parameter], {}).values()
    }
    return {"others_written": len(written - own)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(sys.argv[1])))
