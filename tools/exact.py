"""Make docs/exact.md: every model of tests/exact_models.py, turned over and checked in float64.

    python -m tools.exact                  # all models; finished ones are not run again
    python -m tools.exact timm/resnet18    # only these; the table shows whatever is there

One process per model writes one JSON row to runs/exact. A row is used again as long as the
package, the checks and the versions are what they were when it was made.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from tqdm import tqdm

from fxplastic.zoo.rows import machine
from tests.exact_checks import KINDS, TOLERANCE, failures, measure
from tests.exact_models import SPECS, ModelSpec, spec_named
from tests.exact_widths import GROWN, PRUNED, SHARES, refused_share

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "runs" / "exact"
TABLE = ROOT / "docs" / "exact.md"


def code_key() -> str:
    """Changes whenever a row could come out differently."""
    digest = hashlib.sha256(repr(versions()).encode())
    sources = [*ROOT.glob("fxplastic/**/*.py"), *ROOT.glob("tests/exact_*.py")]
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    modules = {"torch": torch, "torchvision": torchvision, "timm": timm}
    found = {name: str(module.__version__) for name, module in modules.items()}
    return {"Python": platform.python_version()} | found


def row_path(spec: ModelSpec) -> Path:
    return ROWS / f"{spec.library}-{spec.model}.json"


def stored_row(spec: ModelSpec, key: str) -> dict[str, Any] | None:
    path = row_path(spec)
    row = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return row if row is not None and row["key"] == key else None


def run_here(spec: ModelSpec, key: str) -> None:
    """Measure one model in this process and store its row; an exception becomes the row's error."""
    try:
        row = measure(spec, spec.size, lambda stage: print(stage, flush=True))
    except Exception as error:  # the table has to show it, whatever it is
        traceback.print_exc()
        row = {"model": spec.name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    ROWS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(row | {"key": key, "machine": machine(), "versions": versions()}, indent=1)
    row_path(spec).write_text(text + "\n", encoding="utf-8")


def run_apart(spec: ModelSpec, bar: "tqdm[ModelSpec]") -> None:
    """Measure one model in a process of its own: its memory goes back when it is done."""
    command = [sys.executable, "-m", "tools.exact", "--here", spec.name]
    log = row_path(spec).with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        ) as process,
    ):
        assert process.stdout is not None
        for stage in process.stdout:
            bar.set_postfix_str(f"{spec.name}: {stage.strip()}")
    if process.returncode:
        bar.write(f"{spec.name} ended with status {process.returncode}, see {log}")


# --- the table --------------------------------------------------------------------------------

HEAD = """# Exactness, model by model

Made by `make exact`: {command}. Float64 on the CPU, {machine}; {versions}.

Norm parameters, running statistics and layer scales are drawn at random. Every block of every
exact group turns over 30 % of its neurons, with uneven and with signed shares, and is compared
with the same model whose pruned neurons' consumer slices are zero.

- *coverage*: over axes 0 and 1 of every parameter, weighted by its elements, the share of
  positions in an exact group, attention frozen; *floor* is what it has to be at least.
- *error*: largest difference of any output over its largest entry, the worse of uneven and
  signed shares; it has to be at most {tolerance:g}. *effect* is what pruning itself changes.
- *trace*: traced outputs equal the model's bit for bit in eval and train mode, at another batch
  size too, with the same parameter names.
- *rewrite*: `rewrite` gives the bits of `rewrite_` and leaves its input alone; the weights load
  with `strict=True` into a stock model that computes the same bits; the plan replays from JSON
  bit for bit on a copy that was discovered anew.
- *step*: after a training step with the carried optimizer every parameter that had a gradient
  has one, and the original module computes the same bits as the plastic one.

| model | image | groups | neurons | slots per neuron | coverage | floor | error eval \
| error train | effect | trace | rewrite | step | discovery s | all s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
WIDTHS = """
## Other widths

Every group grows to {grown} of its width with even, uneven and signed shares and is compared with
the model as it was; shrinks to {pruned} and is compared with masking; then every other group grows
and the others shrink in one plan (*mixed*), compared with masking, with AdamW (SGD for VGG and
ViT-B) carried over and a training step afterwards. Groups that are tied to others (ShuffleNet's
halves) get the nearest widths that the tie allows.

- *second*: the error of another mixed plan on the result, which was searched for groups anew.
- *foretold*: parameters, multiply-accumulates and every shape are those that were predicted, and
  the groups found anew have the old names and sites and the predicted sizes.
- *fixed*: the part of the model's plastic slots in groups that cannot change their width at all.
  Over all models it is {share:.2%}; it has to be at most 2 %.

| model | grow eval | grow train | prune eval | prune train | effect | mixed eval | mixed train \
| second | foretold | step | fixed |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""
FORETOLD = ("parameters", "macs", "shapes", "same_groups")
REWRITE = ("input_untouched", "pure_same_bits", "loads_strict", "json")
STEP = ("grads", "steps_alike", "original_alive")
TRACE = ("traced_bits", "other_batch", "names")


def word(values: list[bool]) -> str:
    return ("yes" if all(values) else "**no**") if values else "none"


def table_line(spec: ModelSpec, row: dict[str, Any]) -> str:
    if "error" in row:
        return f"| {spec.name} | **{row['error']}** |" + " |" * 13
    turned = [row[kind] for kind in KINDS if kind in row]
    worst = [max((t[f"error_{mode}"] for t in turned), default=None) for mode in ("eval", "train")]
    cells = [
        spec.name,
        str(row["size"]),
        str(row["groups"]),
        str(row["neurons"]),
        f"{row['slots_per_neuron']:.1f}",
        f"{row['coverage']:.4f}",
        "-" if row["floor"] is None else f"{row['floor']:.2f}",
        *("-" if error is None else f"{error:.1e}" for error in worst),
        f"{min(t['effect'] for t in turned):.1e}" if turned else "-",
        word([row[key] for key in TRACE]),
        word([t[key] for t in turned for key in REWRITE]),
        word([t[key] for t in turned for key in STEP]),
        f"{row['discover_seconds']:.1f}",
        f"{row['seconds']:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def width_line(spec: ModelSpec, row: dict[str, Any]) -> str:
    widths = row["widths"]
    grown = [widths[f"grow {shares}"] for shares in SHARES]
    mixed, prune = widths["mixed"], widths["prune"]
    figures = [
        *(max(g[f"error_{mode}"] for g in grown) for mode in ("eval", "train")),
        *(prune[f"error_{mode}"] for mode in ("eval", "train")),
        widths["effect"],
        *(mixed[f"error_{mode}"] for mode in ("eval", "train")),
        mixed["second"],
    ]
    untouched = [widths["input_untouched"], mixed["input_untouched"]]
    cells = [
        spec.name,
        *(f"{figure:.1e}" for figure in figures),
        word([mixed[key] for key in FORETOLD]),
        word([mixed["step_moves"], mixed["finite"], *untouched]),
        f"{widths['refused']['share']:.2%}",
    ]
    return "| " + " | ".join(cells) + " |"


def width_section(rows: dict[str, dict[str, Any]]) -> str:
    specs = [spec for spec in SPECS if "widths" in rows.get(spec.name, {})]
    share = refused_share(rows.values())
    head = WIDTHS.format(grown=GROWN, pruned=PRUNED, share=share)
    lines = [width_line(spec, rows[spec.name]) for spec in specs]
    lines.append("\nGroups of fixed width, and why:\n")
    for spec in specs:
        found = rows[spec.name]["widths"]["refused"]
        if found["groups"]:
            lines.append(f"- `{spec.name}`: {len(found['groups'])} groups")
            lines += [f"  - {reason}" for reason in found["reasons"]]
    if lines[-1].endswith(":\n"):
        lines.append("none.")
    return head + "\n".join(lines)


def reason_lines(spec: ModelSpec, row: dict[str, Any], most: int = 4) -> str:
    reasons = row.get("reasons", [])
    shown = [f"  - {count} positions: {reason}" for reason, count in reasons[:most]]
    rest = sum(count for _, count in reasons[most:])
    more = [f"  - {rest} positions for {len(reasons) - most} further reasons"] if rest else []
    return "\n".join([f"- `{spec.name}`", *(shown or ["  - nothing"]), *more])


def render(rows: dict[str, dict[str, Any]]) -> str:
    """The document, from the rows that are there."""
    specs = [spec for spec in SPECS if spec.name in rows]
    last = rows[specs[-1].name]
    head = HEAD.format(
        command="`python -m tools.exact`",
        machine=last["machine"],
        versions=", ".join(f"{name} {version}" for name, version in last["versions"].items()),
        tolerance=TOLERANCE,
    )
    body = "\n".join(table_line(spec, rows[spec.name]) for spec in specs)
    reasons = "\n".join(reason_lines(spec, rows[spec.name]) for spec in specs)
    widths = width_section(rows)
    return f"{head}{body}\n{widths}\n\n## What is frozen, and why\n\n{reasons}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="as in timm/resnet18; all when none is given")
    parser.add_argument("--here", action="store_true", help="run in this process, no table")
    options = parser.parse_args()
    specs = [spec_named(name) for name in options.models] or list(SPECS)
    key = code_key()
    if options.here:
        for spec in specs:
            run_here(spec, key)
        return 0
    todo = [spec for spec in specs if stored_row(spec, key) is None]
    with tqdm(todo, desc="exact", unit="model", disable=not todo) as bar:
        for spec in bar:
            run_apart(spec, bar)
    rows = {spec.name: row for spec in SPECS if (row := stored_row(spec, key)) is not None}
    if not rows:
        return 1
    TABLE.write_text(render(rows), encoding="utf-8")
    bad = {name: [row["error"]] if "error" in row else failures(row) for name, row in rows.items()}
    for name, problems in bad.items():
        if problems:
            print(f"{name}: {'; '.join(problems)}")
    share = refused_share(row for row in rows.values() if "error" not in row)
    if share > 0.02:
        print(f"groups of fixed width hold {share:.1%} of the plastic slots")
        return 1
    missing = [spec.name for spec in specs if spec.name not in rows]
    print(f"{TABLE}: {len(rows)} models" + (f", without {missing}" if missing else ""))
    return int(bool(missing) or any(bad.values()))


if __name__ == "__main__":
    sys.exit(main())
