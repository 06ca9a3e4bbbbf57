"""docs/zoo.md, from the rows."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fxplastic.zoo.check import ERRORS, MOST_PARAMETERS, TOLERANCE, problems
from fxplastic.zoo.float64 import GROWN, PRUNED, TURNED, Row

HEAD = """# The zoo

Made by `fxplastic zoo` (`make zoo`; `pip install 'fxplastic[zoo]'`): models of timm, torchvision
and transformers, each with random weights. The rows are in `docs/zoo/*.jsonl`, with the commit, the
versions and the machine that made each of them; a model that has a good row is not checked again.

{made}

Every model is built on the meta device at its own input size, traced in both modes, searched for
groups with `attention="value"`, and rewritten there: by a turnover of {turned:.0%} of every block,
and by a plan in which every other group grows to {grown} and the others shrink to {pruned} of their
width. Every tensor's shape has to be what the sites' positions foretell.

Models of at most {most:,} parameters are checked in float64 as well, in eval and in train mode: the
turnover (uneven and signed shares) against masking, the pruning against masking, the growth (signed
shares) and the traced forward against the model as it was. Parameters that stand at a constant are
spread first, running statistics are taken from the input (in rows made first they were drawn),
dropout is the identity, stochastic depth has the same seed, and where a model's code names float32,
it gets float64. *Error* is the worst of all these, relative to the largest output; it has to be at
most {tolerance:g}. *Effect* is what masking changes. The input is the smallest (from 56 pixels on)
at which the model makes the same calls as at its own size; a model that is made for one size is
made for the smaller one where its constructor can. It is a batch of four up to 140 pixels (of eight
in rows made first), of two above. Where two names are the same program (equal graphs, layers and
shapes), the second has the first one's figures, *as* it.

*Coverage* is the share of all slots in exact groups: with attention frozen, with
`attention="value"`, and with `approximate=True` besides (streams that a norm averages over).
"""

COLUMNS = (
    "model", "parameters", "input", "groups", "neurons", "coverage", "value", "approximate",
    "fixed width", "discovery s", "float64 at", "error", "effect", "result",
)  # fmt: skip


def render(rows: Mapping[str, Row], names: Iterable[str] = ()) -> str:
    """The document.

    Args:
        rows: one per model.
        names: all models that there should be, to say how many are missing.
    """
    ordered = [rows[key] for key in sorted(rows)]
    if not ordered:
        return "# The zoo\n\nNo rows yet: run `fxplastic zoo`.\n"
    missing = sorted(set(names) - set(rows))
    head = HEAD.format(
        made=_made(ordered, missing),
        turned=TURNED,
        grown=GROWN,
        pruned=PRUNED,
        most=MOST_PARAMETERS,
        tolerance=TOLERANCE,
    )
    parts = [head, _summary(ordered), _families(ordered), _reasons(ordered), _bad(ordered)]
    parts += ["## Model by model\n", _models(ordered)]
    return "\n".join(parts)


def _made(rows: Sequence[Row], missing: Sequence[str]) -> str:
    def listed(values: Iterable[str]) -> str:
        return "; ".join(f"{value} ({n} rows)" for value, n in Counter(values).most_common())

    versions = listed(", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows)
    lines = [
        f"- versions: {versions}",
        f"- machine: {listed(row['machine'] for row in rows)}",
        f"- commits: {listed(row['commit'] for row in rows)}",
    ]
    waiting = sum(_waits(row) for row in rows)
    if waiting:
        lines.append(f"- **float64 checks to come**: {waiting} models (*float64 to come*)")
    if missing:
        some = ", ".join(missing[:5])
        lines.append(f"- **not checked yet**: {len(missing)} models ({some}, ...)")
    return "\n".join(lines)


def _waits(row: Row) -> bool:
    small = row.get("parameters", MOST_PARAMETERS + 1) <= MOST_PARAMETERS
    return small and "float64" not in row and not problems(row)


def result(row: Row) -> str:
    """What came of a model, in a word or two."""
    if problems(row):
        return f"**{problems(row)[0]}**"
    checks = row.get("float64")
    if checks is None:
        return "float64 to come" if _waits(row) else "rewritten on meta"
    if not row["groups"]:
        return "none exact"
    word = "exact" if checks.get("grown", 1) else "exact, widths refused"
    return f"{word}, as {checks['same_as'].split('/', 1)[1]}" if "same_as" in checks else word


def worst(row: Row) -> float | None:
    """The largest error of the float64 checks."""
    checks = row.get("float64", {})
    return max((checks[what] for what in ERRORS if what in checks), default=None)


def _table(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    head = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return "\n".join([*head, *(f"| {' | '.join(map(str, line))} |" for line in lines)]) + "\n"


def _summary(rows: Sequence[Row]) -> str:
    lines = []
    for library in dict.fromkeys(row["model"].split("/", 1)[0] for row in rows):
        mine = [row for row in rows if row["model"].startswith(f"{library}/")]
        good = [row for row in mine if "error" not in row]
        errors = [error for row in good if (error := worst(row)) is not None]
        lines.append(
            (
                library,
                len(mine),
                len(good),
                sum("float64" in row for row in good),
                sum("same_as" in row.get("float64", {}) for row in good),
                sum(bool(problems(row)) for row in mine),
                f"{max(errors, default=0.0):.1e}",
                *(
                    f"{statistics.median(row['coverage'][kind] for row in good):.3f}"
                    for kind in ("default", "value", "approximate")
                ),
            )
        )
    columns = (
        "library", "models", "rewritten on meta", "checked in float64", "of these as another",
        "with problems", "worst error", "median coverage", "value", "approximate",
    )  # fmt: skip
    return _table(columns, lines)


def _families(rows: Sequence[Row]) -> str:
    lines = []
    kinds = dict.fromkeys(
        (row["model"].split("/", 1)[0], row.get("family", "unknown")) for row in rows
    )
    for library, family in sorted(kinds):
        mine = [
            row
            for row in rows
            if row["model"].startswith(f"{library}/") and row.get("family", "unknown") == family
        ]
        results = Counter(result(row).split(",")[0] for row in mine)
        good = [row for row in mine if "error" not in row]
        shares = [_range(_shares(good, kind)) for kind in ("default", "value", "approximate")]
        what = ", ".join(f"{n} {word}" for word, n in results.most_common())
        lines.append((f"{library}/{family}", len(mine), what, *shares))
    columns = ("family", "models", "results", "coverage", "value", "approximate")
    return "## Family by family\n\n" + _table(columns, lines)


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values, default=0.0):.3f}", f"{max(values, default=0.0):.3f}"
    return low if low == high else f"{low} to {high}"


def _shares(rows: Sequence[Row], kind: str) -> list[float]:
    return [row["coverage"][kind] for row in rows]


def _reasons(rows: Sequence[Row], most: int = 25) -> str:
    good = [row for row in rows if "error" not in row]
    held: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for row in good:
        for reason, share in row["frozen"]:
            held[reason] += share / len(good)
            models[reason] += 1
    lines = [(f"{share:.2%}", models[r], r) for r, share in held.most_common(most)]
    rest = sum(held.values()) - sum(share for _, share in held.most_common(most))
    return (
        '## What holds slots back\n\nWith `attention="value"`; the mean over all models of each '
        "reason's share of the model's slots. "
        f"{max(len(held) - most, 0)} further reasons hold {rest:.2%}.\n\n"
        + _table(("slots", "models", "reason"), lines)
    )


def _bad(rows: Sequence[Row]) -> str:
    bad = [row for row in rows if problems(row)]
    lines = [f"- `{row['model']}`: {'; '.join(problems(row))}{_floor(row)}" for row in bad]
    return "## Problems\n\n" + ("\n".join(lines) or "none") + "\n"


def _floor(row: Row) -> str:
    """How far rounding alone moves the model's outputs, where that was measured."""
    floor = row.get("float64", {}).get("floor")
    return "" if floor is None else f" (weights changed by 1e-15 move it by {floor:.1e})"


def _models(rows: Sequence[Row]) -> str:
    return _table(COLUMNS, (_line(row) for row in rows))


def _line(row: Row) -> Sequence[object]:
    if "error" in row:
        return (row["model"], *["-"] * (len(COLUMNS) - 2), result(row))
    checks, fixed, error = row.get("float64", {}), row["meta"].get("fixed", {}), worst(row)
    effect = checks.get("turnover_effect")
    return (
        row["model"],
        f"{row['parameters']:,}",
        row["input"],
        row["groups"],
        row["neurons"],
        *(f"{row['coverage'][kind]:.3f}" for kind in ("default", "value", "approximate")),
        fixed.get("groups", 0),
        row["discover_s"],
        row.get("tested", "-"),
        "-" if error is None else f"{error:.1e}",
        "-" if effect is None else f"{effect:.1e}",
        result(row),
    )
