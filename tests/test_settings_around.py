"""Around the model: averages, weights that are computed, masks, low-rank adapters, hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import utils
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

import fxplastic
from fxplastic import Plan, PlasticModule, plasticize
from tests.around import (
    EXACT,
    Made,
    images,
    loss_of,
    masked,
    reasons,
    seen,
    sites_of,
    small,
    turn_over,
    wider_and_narrower,
)
from tests.exact_parts import distance, snapshot

AREA = "Around the model"
NET, WRAPPED = "test_efficientnet", "blocks.3.0.conv_pw"
VIT = {"depth": 2}
shows = pytest.mark.setting


def wrapped(
    how: Callable[[nn.Module], Any], path: str = WRAPPED
) -> tuple[nn.Module, PlasticModule]:
    """The network with one of its layers wrapped, and its plastic form."""
    model = small(NET, lambda m: how(m.get_submodule(path)))
    return model, plasticize(model, images(2))


def assert_exact(made: Made) -> None:
    print(f"error {made.error:.1e}, effect of masking {made.effect:.1e}")
    assert made.error < EXACT < 1e-3 < made.effect


def assert_widths(model: nn.Module, plastic: PlasticModule) -> None:
    found = wider_and_narrower(model, plastic)
    print({name: f"{error:.1e}" for name, error in found.items()})
    assert max(found.values()) < EXACT


# ---------------------------------------------------------------- averages
AVERAGES = {
    "timm.utils.ModelEmaV3": (lambda m: timm.utils.ModelEmaV3(m, decay=0.9), "update"),
    "timm.utils.ModelEmaV2": (lambda m: timm.utils.ModelEmaV2(m, decay=0.9), "update"),
    "torch.optim.swa_utils.AveragedModel": (AveragedModel, "update_parameters"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=shows(AREA, f"`{n}`", "supported")) for n in AVERAGES]
)
def test_averages_follow_turnovers_and_new_widths(name: str) -> None:
    wrap, update = AVERAGES[name]
    model = small(NET)
    average: Any = wrap(model)
    plastic = plasticize(model, images(2))
    held: list[nn.Module] = []  # before and after each update

    def follow() -> None:
        held.append(copy.deepcopy(average.module))
        getattr(average, update)(model)
        held.append(copy.deepcopy(average.module))

    made = turn_over(model, plastic, after_step=follow, ema=average)
    assert_exact(made)
    before, after, x = held[3], held[4], images(2)
    expected = masked(before, plastic, made.turnover.plan, x)
    assert distance(seen(after, x), expected) < EXACT < distance(expected, seen(model, x))

    plain = seen(average.module, x)
    result = fxplastic.rewrite(plastic, Plan.random(plastic, grow=0.5, seed=4), made.optimizer)
    result.rebind(average)
    assert distance(seen(average.module, x), plain) < EXACT
    getattr(average, update)(result.module)  # goes on with the wider model


# ---------------------------------------------------------------- weights that are computed
NORMED = {
    "`parametrizations.weight_norm`": (parametrizations.weight_norm, "parametrizations.weight."),
    "`torch.nn.utils.weight_norm`, by a hook": (utils.weight_norm, ""),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=shows(AREA, n, "supported")) for n in NORMED]
)
def test_rows_of_a_normed_weight_turn_over(name: str) -> None:
    wrap, prefix = NORMED[name]
    model, plastic = wrapped(wrap)
    names = [f"{WRAPPED}.{n}" for n, _ in model.get_submodule(WRAPPED).named_parameters()]
    assert any(prefix in n for n in names)
    roles = sites_of(plastic)
    assert {roles[f"{n}:0"] for n in names} == {"producer"}
    longest = max(names, key=lambda n: model.get_parameter(n).numel())
    assert "takes a norm over it" in reasons(plastic, longest)
    assert_exact(turn_over(model, plastic))
    assert_widths(model, plastic)
    loss_of(model, 4)  # what a hook made has a graph now, which nothing copies
    assert not model.get_submodule(WRAPPED).weight.is_leaf
    wider = fxplastic.rewrite(plastic, Plan.random(plastic, grow=0.5, seed=1)).module
    layer: Any = wider.get_submodule(WRAPPED)
    assert layer.out_channels == layer.get_parameter(longest[len(WRAPPED) + 1 :]).shape[0] == 192


SPECTRAL = {
    "`parametrizations.spectral_norm`": parametrizations.spectral_norm,
    "`torch.nn.utils.spectral_norm`, by a hook": utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=shows(AREA, n, "frozen")) for n in SPECTRAL]
)
def test_a_spectral_norm_and_its_vectors_are_left_alone(name: str) -> None:
    model, plastic = wrapped(SPECTRAL[name])
    mine = [n for n in snapshot(model) if n.startswith(f"{WRAPPED}.")]
    assert len(mine) == 3  # the weight, u and v
    assert not {site.rsplit(":", 1)[0] for site in sites_of(plastic)}.intersection(mine)
    assert "reduces over it: copies would count twice" in "".join(reasons(plastic, n) for n in mine)
    made = turn_over(model, plastic)
    assert_exact(made)
    assert_kept(plastic, made, mine)
    assert_widths(model, plastic)


def assert_kept(plastic: PlasticModule, made: Made, names: list[str]) -> None:
    """Doing the turnover again on what was there before leaves these tensors as they were."""
    again = copy.deepcopy(plastic)
    tensors = dict(again.named_parameters()) | dict(again.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(made.before[name])
    fxplastic.rewrite_(again, made.turnover.plan)
    assert all(torch.equal(tensors[name], made.before[name]) for name in names)


MAPS = ("cayley", "matrix_exp", "householder")


@shows(AREA, "`parametrizations.orthogonal`", "frozen")
@pytest.mark.parametrize("trivial", [True, False])
@pytest.mark.parametrize("how", MAPS)
def test_orthogonal_weights_stay_orthogonal(how: str, trivial: bool) -> None:
    path = "blocks.0.mlp.fc1"

    def wrap(m: nn.Module) -> None:
        layer = m.double().get_submodule(path)
        parametrizations.orthogonal(layer, orthogonal_map=how, use_trivialization=trivial)

    model = small("test_vit", wrap, **VIT)
    plastic = plasticize(model, images(2))
    assert not any(path in site for site in sites_of(plastic))
    if trivial:
        base = f"{path}.parametrizations.weight.0.base"
        assert "holds to something between the rows" in reasons(plastic, base)
    assert_exact(turn_over(model, plastic))
    wider = fxplastic.rewrite(plastic, Plan.random(plastic, grow=0.5, seed=1)).module
    for m in (model, wider):
        weight: Any = m.get_submodule(path).weight.detach()
        error = (weight.T @ weight - torch.eye(weight.shape[1], dtype=weight.dtype)).abs().max()
        print(f"from orthogonal by {float(error):.1e}")
        assert error < 1e-10


# ---------------------------------------------------------------- masks
def by_size(layer: nn.Module) -> None:
    prune.l1_unstructured(layer, "weight", 0.5)


def by_row(layer: nn.Module) -> None:
    prune.ln_structured(layer, "weight", 0.25, n=2, dim=0)


@shows(AREA, "masks of `torch.nn.utils.prune`", "supported")
@pytest.mark.parametrize("how", [by_size, by_row])
def test_masks_stay_masks(how: Callable[[nn.Module], None]) -> None:
    model, plastic = wrapped(how)
    mask = f"{WRAPPED}.weight_mask"
    roles = sites_of(plastic)
    assert roles[f"{mask}:1"] == "producer"
    assert roles[f"{WRAPPED}.weight_orig:1"] == "consumer"
    assert_exact(turn_over(model, plastic))
    assert_widths(model, plastic)
    wider = fxplastic.rewrite(plastic, Plan.random(plastic, grow=0.5, seed=1)).module
    loss_of(model, 4)  # the weight under the mask has a graph now, which nothing copies
    same = fxplastic.rewrite(plastic, Plan.random(plastic, turnover=0.3, seed=1)).module
    for m in (model, wider, same):
        assert set(m.get_buffer(mask).unique().tolist()) <= {0.0, 1.0}
        layer: Any = m.get_submodule(WRAPPED)
        m(images(2))
        assert torch.equal(layer.weight == 0, layer.weight_mask == 0)
    plain = seen(model, images(2))
    prune.remove(model.get_submodule(WRAPPED), "weight")
    assert distance(seen(model, images(2)), plain) == 0


# ---------------------------------------------------------------- weights that others read
class Reading(nn.Module):
    """An MLP that reads the weights of its layers in place of calling them."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = mlp.fc1, mlp.act, mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(F.linear(x, self.fc1.weight, self.fc1.bias))
        return F.linear(hidden, self.fc2.weight, self.fc2.bias)


def reading(model: Any, how: Callable[[nn.Module], Any]) -> None:
    model.blocks[0].mlp = Reading(model.blocks[0].mlp)
    how(model.blocks[0].mlp.fc1)


@shows(AREA, "`layer.weight` of a parametrized layer, read in forward", "supported")
def test_a_parametrized_weight_that_forward_reads_is_as_if_called() -> None:
    model = small("test_vit", lambda m: reading(m, parametrizations.weight_norm), **VIT)
    plastic = plasticize(model, images(2))
    sites = sites_of(plastic)
    assert sites["blocks.0.mlp.fc1.parametrizations.weight.original1:0"] == "producer"
    assert sites["blocks.0.mlp.fc2.weight:1"] == "consumer"
    assert_exact(turn_over(model, plastic))
    assert_widths(model, plastic)


@shows(AREA, "`layer.weight` that a hook makes, read in forward without a call", "frozen")
def test_a_weight_of_a_hook_that_never_runs_is_frozen() -> None:
    model = small("test_vit", lambda m: reading(m, by_size), **VIT)
    plastic = plasticize(model, images(2))
    assert not any("blocks.0.mlp" in site for site in sites_of(plastic))
    assert "it is unused" in reasons(plastic, "blocks.0.mlp.fc1.weight_orig")
    assert reasons(plastic, "blocks.0.mlp.fc1.bias")
    assert any("blocks.1.mlp" in site for site in sites_of(plastic))


# ---------------------------------------------------------------- low rank
class LowRank(nn.Module):
    """A frozen layer and a product of two thin ones beside it."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x) + 2.0 * self.b(self.a(x))
        return result


class Merged(nn.Module):
    """The same as a sum of weights."""

    def __init__(self, weight: Tensor, rank: int = 4) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) / 8)
        self.b = nn.Parameter(torch.randn(weight.shape[0], rank) / 8)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + 2.0 * (self.b @ self.a)


def beside(model: Any) -> None:
    model.requires_grad_(False)
    for block in model.blocks:
        block.mlp.fc1, block.mlp.fc2 = LowRank(block.mlp.fc1), LowRank(block.mlp.fc2)


def merged_in(model: Any) -> None:
    for block in model.blocks:
        layer = block.mlp.fc1
        utils.parametrize.register_parametrization(layer, "weight", Merged(layer.weight))


@shows(AREA, "low-rank adapters beside frozen layers (LoRA)", "supported")
def test_low_rank_adapters_turn_over_with_their_layers() -> None:
    model = small("test_vit", beside, **VIT)
    plastic = plasticize(model, images(2))
    roles = sites_of(plastic)
    hidden = plastic.groups["blocks.0.mlp.fc1.base.weight:0"]
    assert [f"{s.parameter}:{s.axis}".split("mlp.")[1] for s in hidden.sites] == [
        "fc1.base.weight:0", "fc1.base.bias:0", "fc1.b.weight:0", "fc2.base.weight:1",
        "fc2.a.weight:1",
    ]  # fmt: skip
    assert roles["blocks.0.mlp.fc1.b.weight:1"] == "consumer"  # the rank is a group of its own
    grads = {name: p.requires_grad for name, p in model.named_parameters()}
    made = turn_over(model, plastic)
    assert_exact(made)
    assert grads == {name: p.requires_grad for name, p in model.named_parameters()}
    assert_widths(model, plastic)


@shows(AREA, "low-rank adapters whose base is to stay as it is (`freeze=`)", "supported")
def test_bases_that_are_asked_for_stay_as_they_are() -> None:
    model = small("test_vit", beside, **VIT)
    plastic = plasticize(model, images(2), freeze=["*.base.*"])
    made = turn_over(model, plastic)
    assert_exact(made)
    assert {group.size for group in plastic.groups.values()} == {4}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(v, made.before[n]) for n, v in snapshot(model).items()
               if n not in trained)  # fmt: skip


@shows(AREA, "low-rank adapters added to the weight: rows", "supported")
@shows(AREA, "low-rank adapters added to the weight: columns and rank", "frozen")
def test_a_low_rank_sum_of_weights_turns_over_where_it_is_linear() -> None:
    model = small("test_vit", merged_in, **VIT)
    plastic = plasticize(model, images(2))
    roles, start = sites_of(plastic), "blocks.0.mlp.fc1.parametrizations.weight"
    assert roles[f"{start}.original:0"] == roles[f"{start}.0.b:0"] == "producer"
    assert f"{start}.original:1" not in roles
    assert_exact(turn_over(model, plastic))
    assert_widths(model, plastic)


# ---------------------------------------------------------------- hooks
def listen(module: nn.Module, calls: list[str]) -> None:
    """One hook of each kind that says when it ran."""
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    module.register_forward_hook(lambda *_: calls.append("after"))
    module.register_forward_hook(lambda *_, **__: calls.append("named"), with_kwargs=True)
    module.register_full_backward_pre_hook(lambda *_: calls.append("backward before"))
    module.register_full_backward_hook(lambda *_: calls.append("backward"))


KINDS = ["after", "backward", "backward before", "before", "named"]


def fired(module: nn.Module, calls: list[str]) -> list[str]:
    calls.clear()
    module.train()(images(2).requires_grad_()).sum().backward()
    return sorted(calls)


@shows(AREA, "hooks of modules, registered before `plasticize`", "supported")
@pytest.mark.parametrize("path", ["blocks.3.0", "blocks.3.0.conv_pw"])
def test_hooks_that_were_there_fire_in_the_rewritten_module(path: str) -> None:
    calls: list[str] = []
    model = small(NET, lambda m: listen(m.get_submodule(path), calls))
    plastic = plasticize(model, images(2))
    assert plastic.groups.keys() == plasticize(small(NET), images(2)).groups.keys()
    assert_exact(turn_over(model, plastic))
    for plan in (Plan.random(plastic, turnover=0.3), Plan.random(plastic, grow=0.5)):
        result = fxplastic.rewrite(plastic, plan).module
        assert fired(model, calls) == fired(result, calls) == KINDS


@shows(AREA, "hooks of modules, registered later: `rewrite_`", "supported")
@shows(AREA, "hooks of modules, registered later: `rewrite` warns by name", "supported")
def test_hooks_that_came_later_fire_in_the_model_and_are_warned_about_elsewhere() -> None:
    calls: list[str] = []
    model = small(NET)
    plastic = plasticize(model, images(2))
    plan = Plan.random(plastic, grow=0.5)
    listen(model.get_submodule(WRAPPED), calls)  # a layer, which the graph calls as a whole
    assert fired(fxplastic.rewrite(plastic, plan).module, calls) == KINDS
    listen(model.get_submodule("blocks.3.0"), calls)
    assert_exact(turn_over(model, plastic))
    assert fired(model, calls) == sorted(2 * KINDS)
    with pytest.warns(UserWarning, match=r"hooks of 'blocks\.3\.0' were registered after"):
        result = fxplastic.rewrite(plastic, plan).module
    assert fired(result, calls) == KINDS
