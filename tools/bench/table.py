"""docs/speed.md, from the stored figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]

HEAD = """# Speed

Made by `make bench` (`python -m tools.bench`), part by part; docs/speed.json has the figures and,
for each, versions, machine and commit. On the CPU, one thread, processor time; what is compared
alternates in one process. {origin}
"""

DISCOVERY = """
## Discovery

From the model to its channel groups, at 224 pixels, beside Torch-Pruning 1.6.1's
`build_dependency` and `get_all_groups`. Nothing is remembered from call to call here. The *floor*
is what no set of rules can do without: tracing, and both modes' graphs run once more on meta.
Memory is the peak over that of the loaded model, each in a process of its own.

| model | ours, s | floor, s | Torch-Pruning, s | theirs / ours | ours, MB | theirs, MB |
|---|---|---|---|---|---|---|
"""

SCALE = """
## Discovery, by size

Nodes are those of both modes' graphs. Models marked *meta* have no weights in memory. The peak of
the process includes PyTorch and timm.

| model | pixels | nodes | s | ms a node | over the model, MB | process, MB |
|---|---|---|---|---|---|---|
"""

REWRITING = """
## Rewriting

A turnover of 0.3 in all groups, with AdamW's state, over `copy.deepcopy` of model and optimizer
(mean and 95 % interval). Extra memory of `rewrite_` is its peak over the bytes of the tensors that
it changes. *Others* are tensors written to by a plan of one group that do not have its slots.

| model | `rewrite` | `rewrite_` | extra memory | others |
|---|---|---|---|---|
"""

SCORING = """
## Scoring

Sum of |g| after each backward, batch 8 at 224 pixels, on the CPU.

| model | step, s | added, by pairs of steps | the call itself | a turnover, steps |
|---|---|---|---|---|
"""

OUTPUT = """
## What comes out

Forward and backward, over the model's own (mean and 95 % interval); both compiled by
`torch.compile` in the third column. Then how often five turnovers in place, and one `rewrite`,
have it compiled again.

| model | eager | compiled | recompiled in place | compiled after `rewrite` | graph breaks |
|---|---|---|---|---|---|
"""

PRUNED = """
## Pruned networks

Latency of a forward of four images over the whole model's, at a part of its multiplications; *8*
has widths in multiples of 8. Ours is pruned by one ranking over the network, Torch-Pruning's by one
ratio for all layers, with its heads told to it.

| model | part asked for | ours | ours, 8 | Torch-Pruning | Torch-Pruning, 8 |
|---|---|---|---|---|---|
"""


def render(rows: Rows, note: str) -> str:
    """The page."""
    text = HEAD.format(origin=_origin(rows.values())) + note
    text += DISCOVERY + _lines(rows, "discovery", _discovery) + _mean(rows)
    text += SCALE + _lines(rows, "scale", _scale)
    text += REWRITING + _lines(rows, "rewriting", _rewriting)
    text += SCORING + _lines(rows, "scoring", _scoring)
    text += OUTPUT + _lines(rows, "output", _output)
    added = rows.get("import/fxplastic")
    if added is not None:
        text += f"\nImporting `fxplastic` adds {added['import_s']:.2f} s to importing torch.\n"
    latencies = _lines(rows, "pruned", _pruned)
    return text + PRUNED + latencies if latencies else text


def _origin(rows: Iterable[Mapping[str, Any]]) -> str:
    texts = (
        ", ".join([*(f"{n} {v}" for n, v in row["versions"].items()), row["machine"]])
        for row in rows
    )
    return "; ".join(dict.fromkeys(texts)) + "."


def _lines(rows: Rows, part: str, cells: Any) -> str:
    found = [(k.split("/", 1)[1], row) for k, row in rows.items() if k.startswith(f"{part}/")]
    return "".join(f"| {' | '.join(cells(name, row))} |\n" for name, row in found)


def _mean(rows: Rows) -> str:
    found = [row["ratio"] for key, row in rows.items() if key.startswith("discovery/")]
    if not found:
        return ""
    mean = math.exp(sum(map(math.log, found)) / len(found))
    slower = sum(r < 1 for r in found)
    return f"\nGeometric mean of theirs / ours: {mean:.2f}; slower on {slower} of {len(found)}.\n"


def _discovery(name: str, row: Mapping[str, Any]) -> list[str]:
    times = [f"{row[f'{who}_s']:.2f}" for who in ("ours", "floor", "theirs")]
    return [name, *times, f"{row['ratio']:.2f}", str(row["ours_mb"]), str(row["theirs_mb"])]


def _scale(name: str, row: Mapping[str, Any]) -> list[str]:
    model, size = name.split("@")
    model = f"{model[5:]} (meta)" if model.startswith("meta:") else model
    figures = [f"{row['seconds']:.2f}", f"{row['ms_a_node']:.2f}"]
    return [model, size, str(row["nodes"]), *figures, str(row["extra_mb"]), str(row["process_mb"])]


def _spread(row: Mapping[str, Any], what: str) -> str:
    return f"{row[what]:.2f} ± {row[f'{what}_half']:.2f}" if what in row else "-"


def _rewriting(name: str, row: Mapping[str, Any]) -> list[str]:
    both = [_spread(row, "rewrite"), _spread(row, "in_place")]
    return [name, *both, f"{row['extra']:.2f}", str(row["others_written"])]


def _scoring(name: str, row: Mapping[str, Any]) -> list[str]:
    pairs = f"{100 * row['pairs']:+.1f} ± {100 * row['pairs_half']:.1f} %"
    call, turnover = f"{100 * row['call']:.1f} %", f"{row['turnover_steps']:.2f}"
    return [name, f"{row['step_s']:.2f}", pairs, call, turnover]


def _output(name: str, row: Mapping[str, Any]) -> list[str]:
    counts = ("recompiled_in_place", "compiled_after_rewrite", "graph_breaks")
    found = [str(row.get(what, "-")) for what in counts]
    return [name, _spread(row, "eager"), _spread(row, "compiled"), *found]


def _pruned(name: str, row: Mapping[str, Any]) -> list[str]:
    model, part = name.split("@")
    cells = [model, part]
    for key in ("ours_1", "ours_8", "theirs_1", "theirs_8"):
        one = row[key]
        shown = (
            one.get("error") or f"{one['latency']:.2f} ± {one['half']:.2f} (at {one['macs']:.2f})"
        )
        cells.append(shown.replace("|", "/"))
    return cells
