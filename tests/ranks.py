"""Several processes that train one model: how tests start them, and what each of them does.

A worker is a function at the top of a module: processes are started afresh and import it.
"""

import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp

import fxplastic
from fxplastic import Plasticity, Schedule

Worker = Callable[[int, int, Path], Any]
LIMIT = 120.0  # seconds until a test gives its processes up
BATCH = 12  # in 2, 3 and 4 equal parts


def together(worker: Worker, size: int, folder: Path) -> list[Any]:
    """What each of `size` processes returns; ``None`` for one that was killed."""
    folder.mkdir(exist_ok=True)
    context = mp.get_context("spawn")
    args = [(worker, rank, size, folder) for rank in range(size)]
    processes = [context.Process(target=_run, args=each) for each in args]
    for process in processes:
        process.start()
    end = time.monotonic() + LIMIT
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    late = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in late:
        processes[rank].kill()
    assert not late, f"ranks {late} did not end"
    found = [_result(folder / f"{rank}.pt") for rank in range(size)]
    failed = [result for result in found if isinstance(result, str)]
    assert not failed, failed[0]
    return found


def _run(worker: Worker, rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    try:
        result = worker(rank, size, folder)
    except BaseException:
        result = traceback.format_exc()
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _result(path: Path) -> Any:
    return torch.load(path, weights_only=False) if path.exists() else None


def error_of(call: Callable[[], object]) -> str:
    """The class and text of what a call raises; empty if nothing."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


# ------------------------------------------------------------------ what they train
def small_model(name: str = "test_convnext", seed: int = 0) -> nn.Module:
    """A timm model in float64 whose norms and layer scales are not what they start from."""
    torch.manual_seed(seed)
    extra = {"img_size": 32, "patch_size": 8} if "vit" in name else {}
    model: nn.Module = timm.create_model(name, num_classes=5, **extra).double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def plastic_model(name: str = "test_convnext", seed: int = 0) -> fxplastic.PlasticModule:
    return fxplastic.plasticize(small_model(name, seed), torch.zeros(2, 3, 32, 32).double())


def batch(epoch: int, step: int, rank: int = 0, size: int = 1) -> tuple[Tensor, Tensor]:
    """This rank's part of a step's global batch."""
    draw = torch.Generator().manual_seed(100 * epoch + step)
    x = torch.randn(BATCH, 3, 32, 32, generator=draw, dtype=torch.float64)
    y = torch.randint(0, 5, (BATCH,), generator=draw)
    mine = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
    return x[mine], y[mine]


def controller(
    plastic: fxplastic.PlasticModule, optimizer: torch.optim.Optimizer, **settings: Any
) -> Plasticity:
    settings = {"schedule": Schedule(every=1), "policy": fxplastic.Policy(zero_sum=0.1), **settings}
    return Plasticity(plastic, optimizer, **settings)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    plasticity: Plasticity,
    rank: int = 0,
    size: int = 1,
) -> fxplastic.Turnover | None:
    """Two steps, each on a part of the global batch, then the epoch's end."""
    epoch = plasticity.epoch
    for step in range(2):
        x, y = batch(epoch, step, rank, size)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        plasticity.after_backward()
        optimizer.step()
    return plasticity.end_epoch()


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two models' tensors."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name]).abs().max()) for name in one)
