"""Parameters that are sharded over processes (FSDP2): turned over part by part, as if whole.

Gloo on the CPU, float64; parts of a batch and of a sum add up in another order, which two
optimizer steps and a turnover per epoch carry on, so that weights are compared to 1e-10.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile

import fxplastic
from fxplastic import Plan
from tests import ranks as world
from tests.ranks import batch, controller, error_of, furthest, plastic_model, train_epoch

AREA = "Sharded parameters"
TOLERANCE = 1e-10
shows = pytest.mark.setting
EPOCHS = 3


def sharded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Each stage or block by itself, and the rest with the root, as a forward needs them."""
    parts = getattr(model, "blocks", None) or model.stages
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()
        for name, t in tensors.items()
    }


def trained(
    name: str, rank: int, size: int, mesh: DeviceMesh | None, criterion: Any, optimizer_of: Any
) -> dict[str, Any]:
    """A run with a turnover after each epoch; the model's own forward trains."""
    model = world.small_model(name)
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3, 32, 32).double())
    if mesh is not None:
        sharded(model, mesh)
    optimizer = optimizer_of(model.parameters())
    plasticity = controller(plastic, optimizer, criterion=criterion, seed=3)
    for _ in range(EPOCHS):
        train_epoch(model, optimizer, plasticity, rank, size)
    names = {id(p): n for n, p in model.named_parameters()}
    moments = {
        f"{names[id(p)]}.{key}": value
        for p, state in optimizer.state.items()
        for key, value in state.items()
        if value.ndim
    }
    parts = [isinstance(parameter, DTensor) for _, parameter in plastic.named_parameters()]
    x = batch(9, 0)[0]
    with torch.no_grad():
        return {
            "plans": [turnover.plan.to_json() for turnover in plasticity.history],
            "neurons": [turnover.neurons for turnover in plasticity.history],
            "weights": whole(dict(model.named_parameters())),
            "moments": whole(moments),
            "gradients": whole({n: p.grad for n, p in model.named_parameters()}),
            "output": {"": model(x)},
            "parts": parts,
        }


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3)


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)


RUNS = {
    "vit magnitude": ("test_vit", "magnitude", adamw),
    "convnext taylor": ("test_convnext", "taylor", momentum),
    "convnext net": ("test_convnext", "net", adamw),
    "vit l1": ("test_vit", "l1", momentum),
    "vit last": ("test_vit", "last", adamw),
}


def on_one_axis(rank: int, size: int, folder: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (size,))
    return {
        run: trained(name, rank, size, mesh, criterion, optimizer)
        for run, (name, criterion, optimizer) in RUNS.items()
    }


def on_two_axes(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Two replicas, each sharded over two processes."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    return {"vit magnitude": trained("test_vit", rank, size, mesh, "magnitude", adamw)}


@shows(AREA, "FSDP2 (fully_shard), by every criterion but of a loss of its own", "supported")
@shows(AREA, "replicas of shards (a mesh of two axes)", "supported")
@pytest.mark.parametrize(("worker", "size"), [(on_one_axis, 2), (on_two_axes, 4)])
def test_a_run_on_sharded_parameters_is_the_unsharded_one(
    worker: world.Worker, size: int, tmp_path: Path
):
    several = world.together(worker, size, tmp_path)
    for run in several[0]:
        name, criterion, optimizer = RUNS[run]
        alone = trained(name, 0, 1, None, criterion, optimizer)
        assert min(alone["neurons"]) > 100
        for each in (ranks[run] for ranks in several):
            assert each["plans"] == alone["plans"], run
            assert all(each["parts"])
            for kind in ("weights", "moments", "gradients", "output"):
                assert furthest(each[kind], alone[kind]) < TOLERANCE, (run, kind)


# ------------------------------------------------------------------ what is refused, and the edges
def looked_at(plastic: fxplastic.PlasticModule) -> tuple[str, ...]:
    """What is said of a model without its values."""
    plan = Plan.random(plastic, turnover=0.3)
    return (
        str(fxplastic.coverage(plastic.named_parameters(), plastic.groups)),
        str(fxplastic.explain(plastic, "blocks.0.mlp.fc1.weight")),
        str(fxplastic.forecast(plastic, plan)),
    )


def edges(rank: int, size: int, folder: Path) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (size,))
    plastic = plastic_model("test_vit")
    model = sharded(plastic_model("test_vit"), mesh)  # its own forward is the traced one
    found = {"sharded first": error_of(lambda: fxplastic.plasticize(model))}
    del model
    model = world.small_model("test_vit")
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3, 32, 32).double())
    looked = looked_at(plastic)
    sharded(model, mesh)
    optimizer = adamw(model.parameters())
    plasticity = controller(plastic, optimizer)
    found["looks the same"] = looked_at(plastic) == looked
    before = whole(dict(model.named_parameters()))
    found["widths"] = error_of(lambda: fxplastic.plan_widths(plastic, 1.25))
    wider = Plan.random(plastic, grow=0.5)
    found["copy"] = error_of(lambda: fxplastic.rewrite(plastic, wider))
    found["in place"] = error_of(lambda: fxplastic.rewrite_(plastic, wider))
    x, y = batch(1, 0, rank, size)
    loss = nn.functional.cross_entropy(model(x), y)
    found["own loss"] = error_of(lambda: plasticity.before_backward(loss))
    loss.backward()
    bad = next(p for p in model.parameters() if p.grad.to_local().numel())
    if rank == 1:  # a gradient that is not finite, in one part of one parameter
        bad.grad.to_local().view(-1)[0] = torch.inf
    plasticity.after_backward()
    found["left out"] = (plasticity.scores.updates, plasticity.scores.left_out)
    found["not finite"] = error_of(plasticity.end_epoch)
    factored = torch.optim.Adafactor(model.parameters())
    state = {"row_var": torch.ones(1), "col_var": torch.ones(1), "step": torch.ones(())}
    for p in model.parameters():
        factored.state[p] = dict(state) if p.ndim > 1 else {}
    plan = Plan.random(plastic, turnover=0.3)
    found["factors"] = error_of(lambda: fxplastic.rewrite_(plastic, plan, factored))
    found["moved"] = furthest(before, whole(dict(model.named_parameters())))
    with torch.no_grad():
        model(x)  # without a backward, the root's weights stay together
        fxplastic.rewrite_(plastic, plan)
        plain = plastic_model("test_vit")
        fxplastic.rewrite_(plain, plan)
        found["as plain"] = float((model(x) - plain(x)).abs().max())
    found["turned"] = furthest(before, whole(dict(model.named_parameters())))
    return found


EXPECTED = {
    "sharded first": "TraceError: parameter 'cls_token' of ",
    "widths": "WidthError: 'cls_token' is sharded over processes, and its shape and its layers",
    "copy": "RewriteError: 'cls_token' is sharded over processes, and its shape and its layers",
    "in place": "RewriteError: the plan changes group ",
    "own loss": "ScoreError: update_from cannot see gradients of sharded parameters",
    "not finite": "ScoreError: the score of neuron 0 of group ",
    "factors": "OptimizerError: Adafactor state 'row_var' of ",
}


@shows(AREA, "a model that is sharded before it is made plastic", "refused")
@shows(AREA, "plans that change widths of a sharded model", "refused")
@shows(AREA, "scores by a loss of their own (before_backward) of a sharded model", "refused")
@shows(AREA, "optimizers that keep means over axes (Adafactor)", "refused")
def test_what_sharded_parameters_do_not_allow_is_refused_by_name(tmp_path: Path):
    for each in world.together(edges, 2, tmp_path):
        for case, start in EXPECTED.items():
            assert each[case].startswith(start), (case, each[case])
        assert each["looks the same"]
        assert each["left out"] == (1, 1)  # on the rank whose own part is finite, too
        assert each["moved"] == 0.0
        assert each["as plain"] < TOLERANCE
        assert each["turned"] > 0.1


# ------------------------------------------------------------------ memory
def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that a call holds at a time, beyond what was there, by PyTorch's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert len(events) > 100
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes))


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, gradients and optimizer state that this process holds."""
    tensors = [t for p in model.parameters() for t in (p.detach(), p.grad)]
    tensors += [t for state in optimizer.state.values() for t in state.values()]
    parts = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return sum(part.numel() * part.element_size() for part in parts)


def memory(rank: int, size: int, folder: Path) -> dict[str, float]:
    """A ViT of twelve blocks, every group of which turns over."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10)
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3, 32, 32))
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    sharded(model, init_device_mesh("cpu", (size,)))
    optimizer = adamw(model.parameters())
    model(torch.randn(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    plan = Plan.random(plastic, turnover=0.3)
    peak = peak_of(lambda: fxplastic.rewrite_(plastic, plan, optimizer))
    touched = {s.parameter for g in plastic.groups.values() for s in g.sites}
    return {
        "peak": peak,
        "shard": held(model, optimizer),
        "whole": 4 * whole,
        "touched": len(touched),
    }


@shows(AREA, "memory: beside a shard, a turnover needs less than that shard again", "supported")
def test_a_rewrite_of_shards_needs_less_than_the_shard_again(tmp_path: Path):
    for each in world.together(memory, 2, tmp_path):
        assert each["touched"] > 20
        assert each["peak"] < each["shard"]
        assert each["peak"] < 0.5 * each["whole"]  # the whole model was never together
