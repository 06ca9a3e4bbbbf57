"""What comes out is not slower: forward and backward beside the model's own, eager and compiled.

python -m tools.bench.output resnet50 4
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from fxplastic import Plan, plasticize, rewrite, rewrite_
from tools.bench.timing import ratios

MODELS = ("resnet50", "convnext_tiny", "vit_base_patch16_224")
IMPORTS = 7


def step(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """A forward and a backward."""

    def run() -> object:
        model.zero_grad(set_to_none=True)
        model(x).square().mean().backward()
        return None

    return run


def eager(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Time of a step of the plastic module over that of the model, by rounds that alternate."""
    torch.manual_seed(0)
    model = timm.create_model(name).train()
    x = torch.randn(batch, 3, 224, 224)
    plastic = plasticize(model, x)
    works = {"model": step(model, x), "plastic": step(plastic, x)}
    mean, half = ratios(works, rounds, "model")["plastic"]
    return {"eager": round(mean, 3), "eager_half": round(half, 3)}


def compiled(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """The same for both compiled, and how often either is compiled over turnovers."""
    torch.manual_seed(0)
    model = timm.create_model(name).train()
    x = torch.randn(batch, 3, 224, 224)
    plastic = plasticize(model, x)
    frames = torch._dynamo.utils.counters["frames"]
    fast, own = torch.compile(plastic), torch.compile(model)
    works = {"model": step(own, x), "plastic": step(fast, x)}
    mean, half = ratios(works, rounds, "model")["plastic"]
    before = frames["ok"]
    for seed in range(5):
        rewrite_(plastic, Plan.random(plastic, turnover=0.3, seed=seed))
        works["plastic"]()
    after_turnovers = frames["ok"] - before
    other = rewrite(plastic, Plan.random(plastic, turnover=0.3)).module
    before = frames["ok"]
    step(torch.compile(other), x)()
    return {
        "compiled": round(mean, 3),
        "compiled_half": round(half, 3),
        "recompiled_in_place": after_turnovers,
        "compiled_after_rewrite": frames["ok"] - before,
        "graph_breaks": len(torch._dynamo.utils.counters["graph_break"]),
    }


def imports() -> dict[str, Any]:
    """Seconds that importing the package adds to importing torch; medians, alternating."""
    code = "import time, torch; a = time.process_time(); import {0}; print(time.process_time() - a)"
    taken: dict[str, list[float]] = {"fxplastic": [], "torch": []}
    for _ in range(IMPORTS):
        for name, values in taken.items():
            ran = subprocess.run(
                [sys.executable, "-c", code.format(name)],
                capture_output=True,
                text=True,
                check=True,
            )
            values.append(float(ran.stdout))
    middle = {name: sorted(values)[IMPORTS // 2] for name, values in taken.items()}
    return {"import_s": round(middle["fxplastic"] - middle["torch"], 3)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    name, batch, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    found = eager(name, batch, rounds)
    if "--compiled" in sys.argv:
        found |= compiled(name, batch, rounds)
    print(json.dumps(found))
