"""Works that alternate, each timed each round, and processes of their own for memory."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Work = Callable[[], object]


def alternate(works: Mapping[str, Work], rounds: int, *, warm: bool = True) -> dict[str, Any]:
    """Median processor seconds of each work, over rounds that go through them to and fro.

    Args:
        works: by name; what one returns is dropped outside of its time.
        rounds: how often each is timed.
        warm: run each once before.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values() if warm else ():
        work()
    for number in range(rounds):
        for name in list(works) if number % 2 == 0 else reversed(list(works)):
            gc.collect()
            began = time.process_time()
            kept = works[name]()
            taken[name].append(time.process_time() - began)
            del kept
    return {name: statistics.median(times) for name, times in taken.items()}


def ratios(works: Mapping[str, Work], rounds: int, base: str) -> dict[str, tuple[float, float]]:
    """Each work's time over that of `base` in the same round: the mean and half its 95 % interval.

    Args:
        works: by name.
        rounds: of which the first warms up and is left out.
        base: the name of the work to compare with.
    """
    found: dict[str, list[float]] = {name: [] for name in works if name != base}
    for number in range(rounds + 1):
        taken = {}
        for name in list(works) if number % 2 == 0 else reversed(list(works)):
            gc.collect()
            began = time.process_time()
            works[name]()
            taken[name] = time.process_time() - began
        for name, values in found.items():
            values.append(taken[name] / taken[base])
    return {
        name: (
            statistics.fmean(values[1:]),
            1.96 * statistics.stdev(values[1:]) / (len(values) - 1) ** 0.5,
        )
        for name, values in found.items()
    }


def apart(module: str, *arguments: str) -> dict[str, Any]:
    """What a call of ``module`` as a program prints as its last line, in JSON."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def memory_now() -> float:
    """MB that this process holds; its peak is counted from here on (Linux with glibc)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed would hide what is taken
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def memory_peak() -> float:
    """The most MB that this process has held since `memory_now`."""
    return _status("VmHWM")


def _status(what: str) -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{what}:")[1].split()[0]) / 1024
