"""Run the benchmarks that have no figures yet, store them, and write the page."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fxplastic.zoo.rows import origin
from tools.bench import discovery, output, pruned, rewriting, scale, scoring
from tools.bench.table import render
from tools.bench.timing import apart

ROOT = Path(__file__).resolve().parents[2]
STORE, PAGE, NOTE = (ROOT / "docs" / n for n in ("speed.json", "speed.md", "speed_note.md"))
PARTS = ("discovery", "scale", "rewriting", "scoring", "output", "import", "pruned")
WORSE = 1.5

Work = Callable[[], dict[str, Any]]


def works(parts: list[str]) -> Iterator[tuple[str, Work]]:
    """What there is to measure, by key."""
    found: dict[str, list[tuple[str, Work]]] = {
        "discovery": [(m, lambda m=m: discovery.measure(m)) for m in discovery.MODELS],
        "scale": [(f"{m}@{s}", lambda m=m, s=s: scale.measure(m, s)) for m, s in scale.SIZES],
        "rewriting": [(m, lambda m=m: apart("tools.bench.rewriting", m)) for m in rewriting.MODELS],
        "scoring": [(m, lambda m=m: scoring.measure(m)) for m in scoring.MODELS],
        "output": [
            (m, lambda m=m: apart("tools.bench.output", m, "4", "8", *_compiled(m)))
            for m in output.MODELS
        ],
        "import": [("fxplastic", output.imports)],
        "pruned": [
            (f"{m}@{k}", lambda m=m, k=k: apart("tools.bench.pruned", m, str(k)))
            for m in pruned.MODELS
            for k in pruned.KEPT
        ],
    }
    for part in parts:
        yield from ((f"{part}/{name}", work) for name, work in found[part])


def _compiled(name: str) -> list[str]:
    return ["--compiled"] if name == output.MODELS[0] else []


def quick(stored: dict[str, dict[str, Any]]) -> list[str]:
    """What is worse than the stored ratios by half or more; a few small cases.

    A case that looks worse is measured once more: a busy machine is no regression.
    """
    cases: dict[str, tuple[Work, str, bool]] = {
        f"discovery/{m}": (lambda m=m: discovery.measure(m, memory=False), "ratio", True)
        for m in ("resnet18", "convnext_tiny")
    }
    cases["rewriting/convnext_tiny"] = (
        lambda: apart("tools.bench.rewriting", "convnext_tiny"), "in_place", False,
    )  # fmt: skip
    found = []
    for key, (work, what, more_is_better) in cases.items():
        for _ in range(2):
            now, then = work()[what], stored[key][what]
            factor = then / now if more_is_better else now / then
            print(f"{key}: {what} {now:.2f}, stored {then:.2f}: {factor:.2f} times as bad")
            if factor < WORSE:
                break
        else:
            found.append(key)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--again", action="store_true", help="measure what has figures, too")
    parser.add_argument("--quick", action="store_true", help="compare a few with the stored ones")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    stored = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    if options.quick:
        worse = quick(stored)
        sys.exit(f"worse than stored by {WORSE} times or more: {', '.join(worse)}" if worse else 0)
    todo = [(k, w) for k, w in works(options.parts) if options.again or k not in stored]
    for key, work in tqdm(todo, unit="case"):
        stored[key] = work() | origin()
        order = [k for k, _ in works(list(PARTS)) if k in stored]
        stored = {k: stored[k] for k in order}
        STORE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    note = NOTE.read_text(encoding="utf-8") if NOTE.exists() else ""
    PAGE.write_text(render(stored, note), encoding="utf-8")


if __name__ == "__main__":
    main()
