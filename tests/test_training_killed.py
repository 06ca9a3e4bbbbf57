"""A run that is killed again and again, once amid a turnover, ends as the run that never was.

`FXPLASTIC_KILLS=10` kills ten times, besides that one.
"""

import csv
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from fxplastic import changes
from fxplastic.training import Config, checkpoints, train

KILLS = int(os.environ.get("FXPLASTIC_KILLS", "3"))
PATIENCE = 60.0  # seconds for an epoch, on a machine that does much else

CONFIG = Config(
    model="test_resnet",
    model_args={
        "channels": [16, 16, 32, 32],
        "stem_width": 16,
        "drop_rate": 0.2,
        "drop_path_rate": 0.1,
    },
    imbalance=400,
    epochs=2 * KILLS + 1,
    batch=64,
    lr=0.02,
    warmup=1,
    every=2,
    ema=0.9,
    clip=1.0,
    policy="paper",
    loss="drw",
    device="cpu",
    checkpoint=2,
)


def run(config: Config, resume: bool) -> None:
    """What a process does; at the top of the module, where a new process finds it."""
    torch.set_num_threads(1)
    train(config, resume=resume, progress=False)


def run_into_a_turnover(config: Config, resume: bool) -> None:
    """Like `run`, killed when a turnover has written some of its tensors, and not the others."""
    written = 0

    def step(name: str) -> None:
        nonlocal written
        written += name.startswith("write ")
        if written == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    changes.step = step
    run(config, resume)


def started(
    context: ForkServerContext, config: Config, resume: bool, target: Callable[..., None] = run
) -> ForkServerProcess:
    process = context.Process(target=target, args=(config, resume))
    process.start()
    return process


def epochs_on_record(folder: Path) -> int:
    """Rows of ``metrics.csv``; -1 before the run has a folder."""
    if not (folder / "config.json").exists():
        return -1
    metrics = folder / "metrics.csv"
    return max(0, metrics.read_text().count("\n") - 1) if metrics.exists() else 0


def kill(process: ForkServerProcess, folder: Path, epoch: int, extra: float) -> None:
    """SIGKILL, `extra` seconds after `epoch` is on record."""
    end = time.monotonic() + PATIENCE
    while epochs_on_record(folder) < epoch:
        assert process.is_alive(), f"the run ended by itself before epoch {epoch}"
        assert time.monotonic() < end, f"epoch {epoch} did not come"
        time.sleep(0.002)
    time.sleep(extra)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the run ended before it was killed"


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal, tensors bit for bit; times that were taken are left out."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        keys = a.keys() - {"seconds", "out"}
        return keys == b.keys() - {"seconds", "out"} and all(same(a[key], b[key]) for key in keys)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def records(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, [json.loads(line) for line in (folder / "plans.jsonl").read_text().splitlines()]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_ends_with_the_weights_of_the_run_that_never_was(tmp_path: Path):
    # One server imports everything once, and each run is a fresh process of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fxplastic.training"])
    whole = replace(CONFIG, out=str(tmp_path / "whole"))
    undisturbed = started(context, whole, resume=False)
    undisturbed.join(PATIENCE * CONFIG.epochs)
    assert undisturbed.exitcode == 0

    rows, _ = records(tmp_path / "whole")
    per_epoch = sum(float(row["seconds"]) for row in rows) / len(rows)
    draw = random.Random(0)
    folder = tmp_path / "killed"
    config = replace(CONFIG, out=str(folder))
    # From before the first epoch to the last but one, each within the epoch or its checkpoint.
    moments = [0, *sorted(draw.sample(range(1, CONFIG.epochs - 1), KILLS - 1))]
    for count, epoch in enumerate(moments):
        process = started(context, config, resume=count > 0)
        kill(process, folder, epoch, draw.uniform(0, per_epoch))
        if count == 0:
            halfway = started(context, config, resume=True, target=run_into_a_turnover)
            halfway.join(PATIENCE * CONFIG.epochs)
            assert halfway.exitcode == -signal.SIGKILL
            # The turnover comes before its epoch's record, whichever turnover it was.
            assert epochs_on_record(folder) % CONFIG.every == CONFIG.every - 1
    last = started(context, config, resume=True)
    last.join(PATIENCE * CONFIG.epochs)
    assert last.exitcode == 0

    ours = checkpoints.load(folder / "last.pt")
    theirs = checkpoints.load(tmp_path / "whole" / "last.pt")
    assert ours["epoch"] == CONFIG.epochs
    assert ours.keys() == theirs.keys()
    assert [key for key in theirs if not same(ours[key], theirs[key])] == []
    assert same(records(folder), records(tmp_path / "whole"))
    assert (folder / "confusion.png").exists()


def test_states_that_differ_in_one_bit_are_not_the_same():
    one = torch.ones(3)
    other = one.clone()
    other[1] = torch.nextafter(other[1], torch.tensor(2.0))
    assert same({"a": [one], "seconds": 1.0}, {"a": [one.clone()], "seconds": 2.0})
    assert not same({"a": [one]}, {"a": [other]})
    assert not same({"a": [one]}, {"a": [one.double()]})
