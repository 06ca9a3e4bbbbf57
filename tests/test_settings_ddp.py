"""Several processes train one model: they turn over the same neurons, or end in an error.

Processes talk by gloo, on the CPU. Numbers are float64; the same global batch in parts sums up in
another order, and two optimizer steps and a turnover per epoch carry that on, so that weights are
compared to 1e-10.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import fxplastic
from fxplastic import Plan
from fxplastic.distributed import Ranks, rewrap
from fxplastic.distributed.ranks import together
from fxplastic.errors import RankError
from fxplastic.rewrite import made_together
from tests import ranks as world
from tests.ranks import (
    batch,
    controller,
    error_of,
    furthest,
    optimizer_of,
    plastic_model,
    small_model,
    train_epoch,
    weights,
)

AREA = "Several processes"
TOLERANCE = 1e-10
shows = pytest.mark.setting


# ------------------------------------------------------------------ a run like a single process's
EPOCHS = 3


def trained(name: str, rank: int, size: int, kind: type[nn.Module] | None) -> dict[str, Any]:
    """A run with a turnover after each epoch."""
    plastic = plastic_model(name)
    model = plastic if kind is None else kind(plastic)
    optimizer, average = optimizer_of(plastic), AveragedModel(plastic)
    plasticity = controller(plastic, optimizer, ema=average, seed=3)
    inside = model.module if kind else plastic
    for _ in range(EPOCHS):
        train_epoch(model, optimizer, plasticity, rank, size)
        average.update_parameters(plastic)
    assert inside is plastic
    return {
        "plans": [turnover.plan.to_json() for turnover in plasticity.history],
        "neurons": [turnover.neurons for turnover in plasticity.history],
        "weights": weights(plastic),
        "average": weights(average),
        "moments": {str(k): s["exp_avg"] for k, s in optimizer.state_dict()["state"].items()},
    }


def train_convnext(rank: int, size: int, folder: Path) -> dict[str, Any]:
    return trained("test_convnext", rank, size, DistributedDataParallel)


def train_vit(rank: int, size: int, folder: Path) -> dict[str, Any]:
    return trained("test_vit", rank, size, DistributedDataParallel)


@shows(AREA, "DistributedDataParallel, with averages of the weights", "supported")
@pytest.mark.parametrize(
    ("worker", "name", "size"), [(train_vit, "test_vit", 2), (train_convnext, "test_convnext", 4)]
)
def test_a_run_on_several_processes_is_that_of_one(
    worker: world.Worker, name: str, size: int, tmp_path: Path
):
    alone = trained(name, 0, 1, None)
    several = world.together(worker, size, tmp_path)
    assert min(alone["neurons"]) > 100
    assert alone["plans"] == several[0]["plans"]
    for each in several:
        assert each["plans"] == several[0]["plans"]  # bit for bit
        assert furthest(each["weights"], several[0]["weights"]) == 0.0
        for kind in ("weights", "average", "moments"):
            assert furthest(each[kind], alone[kind]) < TOLERANCE


# ------------------------------------------------------------------ further ways to use it
def scores_of_its_own(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Scores by a loss of their own, from gradients that nothing has averaged."""
    plastic = plastic_model()
    optimizer = optimizer_of(plastic)
    plasticity = controller(plastic, optimizer, criterion="taylor")
    model = DistributedDataParallel(plastic)
    x, y = batch(1, 0, rank, size)
    loss = nn.functional.cross_entropy(model(x), y)
    plasticity.before_backward(loss)
    loss.backward()
    turnover = plasticity.end_epoch()
    net = controller(plastic, optimizer, criterion="net")
    refused = error_of(lambda: net.before_backward(plastic(x).sum()))
    return {"plan": turnover.plan.to_json(), "refused": refused}


@shows(AREA, "scores by a loss of their own (before_backward)", "supported")
def test_scores_of_local_gradients_are_averaged_before_anything_is_planned(tmp_path: Path):
    several = world.together(scores_of_its_own, 2, tmp_path)
    plastic = plastic_model()
    plasticity = controller(plastic, optimizer_of(plastic), criterion="taylor")
    x, y = batch(1, 0)
    loss = nn.functional.cross_entropy(plastic(x), y)
    plasticity.before_backward(loss)
    loss.backward()
    turnover = plasticity.end_epoch()
    for each in several:  # what taylor adds up is linear in the gradient: it is a single one's
        assert each["plan"] == turnover.plan.to_json()
        assert each["refused"].startswith("ScoreError: update_from sees the gradients of this")


def widened(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """A plan that changes widths, and a wrapper like the old one."""
    plastic = plastic_model()
    optimizer = optimizer_of(plastic)
    model = DistributedDataParallel(plastic, gradient_as_bucket_view=True)
    model.register_comm_hook("state", halved)
    step(model, optimizer, rank, size)
    ranks = Ranks()
    plan = ranks.decide(lambda: fxplastic.plan_widths(plastic, 1.25))
    new = ranks.rewrite(plastic, plan, optimizer)
    wrapped = rewrap(model, new.module)
    assert wrapped.module is new.module
    step(wrapped, new.optimizer, rank, size)
    return {
        "weights": weights(new.module),
        "view": wrapped.gradient_as_bucket_view,
        "refused": error_of(lambda: rewrap(plastic, new.module)),
        "twice": error_of(lambda: rewrap(model, wrapped)),
    }


def halved(state: str, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Gradients are averaged, and then halved: a run without this hook is another run."""
    assert state == "state"
    return allreduce_hook(None, bucket).then(lambda done: done.value() / 2)


def step(model: nn.Module, optimizer: Any, rank: int, size: int, factor: float = 1.0) -> None:
    x, y = batch(1, 0, rank, size)
    optimizer.zero_grad()
    (factor * nn.functional.cross_entropy(model(x), y)).backward()
    optimizer.step()


@shows(AREA, "plans that change widths, and a new wrapper like the old one", "supported")
def test_a_model_of_other_widths_is_wrapped_as_before(tmp_path: Path):
    several = world.together(widened, 2, tmp_path)
    plastic = plastic_model()
    optimizer = optimizer_of(plastic)
    step(plastic, optimizer, 0, 1, 0.5)
    new = fxplastic.rewrite(plastic, fxplastic.plan_widths(plastic, 1.25), optimizer)
    step(new.module, new.optimizer, 0, 1, 0.5)
    for each in several:
        assert furthest(each["weights"], weights(new.module)) < TOLERANCE
        assert each["view"] is True
        assert each["refused"].startswith("RankError: PlasticModule is no Distributed")
        assert each["twice"].startswith("RankError: the new module is wrapped already")


def models_of_their_own(rank: int, size: int, folder: Path) -> list[int]:
    plastic = plastic_model("test_vit" if rank else "test_convnext")
    optimizer = optimizer_of(plastic)
    plasticity = controller(plastic, optimizer, ranks="alone")
    return [train_epoch(plastic, optimizer, plasticity).neurons for _ in range(1 + rank)]


@shows(AREA, "a model of its own on each process (ranks='alone')", "supported")
def test_processes_that_train_models_of_their_own_do_not_wait_for_each_other(tmp_path: Path):
    first, second = world.together(models_of_their_own, 2, tmp_path)
    assert (len(first), len(second)) == (1, 2)


def test_a_single_process_needs_no_group_and_a_wrong_value_is_refused():
    assert together("auto").size == 1
    with pytest.raises(RankError, match=r"ranks='both'; give 'auto', 'alone' or a "):
        together("both")
    with pytest.raises(RankError, match="no process group has been made; call torch.distributed"):
        Ranks()


def test_a_rewrite_that_is_undone_leaves_every_bit_as_it_was():
    plastic = plastic_model()
    optimizer = optimizer_of(plastic)
    step(plastic, optimizer, 0, 1)
    before = weights(plastic)
    moments = {k: s["exp_avg"].clone() for k, s in optimizer.state_dict()["state"].items()}
    made = made_together([(plastic, optimizer)], Plan.random(plastic, turnover=0.3, seed=4))
    made.carry_out()
    assert furthest(before, weights(plastic)) > 0.1
    made.undo()
    assert furthest(before, weights(plastic)) == 0.0
    assert fxplastic.history(plastic) == ()
    for k, s in optimizer.state_dict()["state"].items():
        assert torch.equal(moments[k], s["exp_avg"])


@shows(
    AREA,
    "SyncBatchNorm: found and rewritten as BatchNorm is (on a CPU it does not train)",
    "supported",
)
def test_a_synchronised_batch_norm_is_found_and_rewritten_as_batch_norm_is():
    plain, synchronised = small_model("test_resnet"), small_model("test_resnet")
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(synchronised)
    x = torch.zeros(2, 3, 32, 32).double()
    one, other = fxplastic.plasticize(plain, x), fxplastic.plasticize(synchronised, x)
    assert one.fingerprint == other.fingerprint
    for plastic in (one, other):
        fxplastic.rewrite_(plastic, Plan.random(plastic, turnover=0.3, seed=2))
    assert furthest(weights(one), weights(other)) == 0.0
    x = batch(1, 0)[0]
    assert torch.equal(one.eval()(x), other.eval()(x))
