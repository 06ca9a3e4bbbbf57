"""Discovery beside Torch-Pruning's, and beside the floor under it; peak memory of both.

python -m tools.bench.discovery ours resnet18 224     # one measurement, as a line of JSON
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import timm
import torch
from torch import Tensor, nn

from fxplastic import memo
from fxplastic.discover import discover
from fxplastic.interpret import MetaInterpreter, example_values
from fxplastic.memo import Remembering
from fxplastic.trace import on_meta, trace
from tools.bench.timing import alternate, apart, memory_now, memory_peak

MODELS = (
    "resnet18",
    "resnet50",
    "resnet152",
    "convnext_tiny",
    "vit_base_patch16_224",
    "mambaout_tiny",
    "densenet201",
    "regnety_160",
)


def ours(model: nn.Module, x: Tensor) -> object:
    """From the model to its groups, both modes."""
    memo.forget()
    return discover(model, trace(model, (x,)))


def theirs(model: nn.Module, x: Tensor) -> object:
    """Torch-Pruning: the dependency graph, and all groups of convolutions and linear layers."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    return list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))


def floor(model: nn.Module, x: Tensor) -> object:
    """What no set of rules can do without: both traces, and both graphs run on meta once more."""
    memo.forget()
    traced = trace(model, (x,))
    for training, graph in traced.graphs.items():
        with on_meta(model, training), torch.no_grad(), Remembering():
            MetaInterpreter(model, graph, traced).run(*example_values(graph, traced))
    return traced


def measure(name: str, rounds: int = 3, *, memory: bool = True) -> dict[str, Any]:
    """Seconds of all three by rounds that alternate, and peak memory of two processes."""
    model, x = timm.create_model(name).eval(), torch.zeros(1, 3, 224, 224)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        works = {"ours": ours, "theirs": theirs, "floor": floor}
        taken = alternate({n: lambda w=w: w(model, x) for n, w in works.items()}, rounds)
    peaks = {}
    for who in ("ours", "theirs") if memory else ():
        peaks[f"{who}_mb"] = apart(__name__, who, name, "224")["peak_mb"]
    found = {f"{who}_s": round(seconds, 3) for who, seconds in taken.items()}
    found["ratio"] = round(taken["theirs"] / taken["ours"], 2)
    found |= peaks
    return found


def alone(who: str, name: str, size: int) -> dict[str, Any]:
    """Seconds, nodes and peak memory over that of the loaded model, in a process of its own."""
    big = name.startswith("meta:")
    with torch.device("meta" if big else "cpu"):
        model = timm.create_model(name.removeprefix("meta:"), **_sized(name, size)).eval()
    x = torch.zeros(1, 3, size, size, device="meta" if big else "cpu")
    small = timm.create_model("test_resnet").eval()  # what is loaded on first use is no part of it
    work = {"ours": ours, "theirs": theirs}[who]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work(small, torch.zeros(1, 3, 64, 64))
        before = memory_now()
        began = time.process_time()
        kept = work(model, x)
        taken = time.process_time() - began
    after = memory_peak()
    found = {"seconds": taken, "peak_mb": round(after - before), "rss_mb": round(after)}
    if who == "ours":
        found["nodes"] = sum(len(graph.nodes) for graph in trace(model, (x,)).graphs.values())
    del kept
    return found


def _sized(name: str, size: int) -> dict[str, Any]:
    return {"img_size": size} if "vit_" in name and size != 224 else {}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(alone(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
