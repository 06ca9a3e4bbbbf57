"""Run the comparisons of tools/studies.py, seed by seed, and write docs/results/*.md from them.

    python -m tools.evidence controls criteria      # some studies; all by default
    python -m tools.evidence --shard 1/2            # every other run
    python -m tools.evidence --tables               # only write the tables

Runs are stored as they come, one line of JSON each, and one that is there (with the same
configuration) is not made again. Runs that several studies share are made once.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from tqdm import tqdm

from fxplastic.training import Config, train
from fxplastic.zoo import rows as origins
from tools.forest import Comparison, draw
from tools.studies import DIRECT, STUDIES, Arm, Study

ROWS = Path("docs/evidence")
TABLES = Path("docs/results.md")
SCRATCH = Path("runs/evidence")
ELSEWHERE = ("label", "out", "device", "checkpoint", "evaluate", "plot")

Row = dict[str, Any]
Seeds = Callable[[int], bool]


def config_of(study: Study, arm: Arm, seed: int) -> Config:
    """The configuration of one run; `data_seed` is that of the pair, also with another seed."""
    values = {**study.base, **arm.changes, "data_seed": seed}
    values["seed"] = seed + 1000 if arm.other_seed else seed
    if values.get("turnover") is False:  # keys of the turnover have no say: one run for all
        fields = {f.name: f for f in dataclasses.fields(Config)}
        for key in ("first", "last", "ratio", "score_loss", "policy", "policy_args", "overrides"):
            values[key] = _default(fields[key])
        values["every"] = 1
    end = values["epochs"]
    return Config(**{**values, "checkpoint": end, "evaluate": end, "plot": False, "device": "cpu"})


def values_of(config: Config) -> dict[str, Any]:
    """All that decides the result, the policy field by field."""
    values = {k: v for k, v in dataclasses.asdict(config).items() if k not in ELSEWHERE}
    if config.turnover:
        values |= {"policy": config.scaling.as_dict(), "policy_args": {}}
    return values


def key_of(config: Config) -> str:
    """Hash of all that decides the result."""
    return key_of_values(values_of(config))


def key_of_values(values: dict[str, Any]) -> str:
    """The same of what a row has; an option that came later was at its default."""
    known = {f.name: f for f in dataclasses.fields(Config)}
    later = {k: _default(f) for k, f in known.items() if k not in values and k not in ELSEWHERE}
    text = json.dumps({**values, **later}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def wanted(studies: Sequence[str]) -> dict[str, Config]:
    """Every run of some studies, by key; seed by seed, so that all tables fill evenly."""
    found: dict[str, Config] = {}
    for seed in range(max(STUDIES[name].seeds for name in studies)):
        for name in studies:
            study = STUDIES[name]
            for arm in study.arms if seed < study.seeds else ():
                config = config_of(study, arm, seed)
                found.setdefault(key_of(config), config)
    return found


def stored() -> dict[str, Row]:
    """Rows by key."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROWS.glob("*.jsonl"))]
    lines = (line for text in texts for line in text.splitlines())
    return {key_of_values(row["config"]): row for row in map(json.loads, lines)}


def carry_out(key: str, config: Config, origin: Row) -> Row:
    """One run, and its row; what else it left is thrown away."""
    out = SCRATCH / key
    shutil.rmtree(out, ignore_errors=True)
    began = time.process_time()
    result = train(dataclasses.replace(config, out=str(out)), progress=False)
    seconds = round(time.process_time() - began, 1)
    shutil.rmtree(out)
    return {
        "seed": config.data_seed, "top1": result.top1, "splits": dict(result.splits),
        "turnovers": result.turnovers, "neurons": result.neurons, "cpu_seconds": seconds,
        "config": values_of(config), **origin,
    }  # fmt: skip


def run(studies: Sequence[str], shard: str) -> None:
    """Make the runs that are missing."""
    first, count = map(int, shard.split("/"))
    done, origin = stored(), origins.origin()
    mine = list(wanted(studies).items())[first - 1 :: count]  # the same, whatever is done
    todo = [(key, config) for key, config in mine if key not in done]
    ROWS.mkdir(parents=True, exist_ok=True)
    for key, config in tqdm(todo, unit="run"):
        row = carry_out(key, config, origin)
        name = str(config.data).removesuffix("-lt")
        with (ROWS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


# ---------------------------------------------------------------- tables
def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % interval, by Student's t."""
    n = len(differences)
    mean = statistics.fmean(differences)
    if n < 2:
        return mean, math.nan
    return mean, float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)


def detectable(differences: Sequence[float]) -> float:
    """The smallest true difference that this many pairs show in four of five cases."""
    n = len(differences)
    if n < 2:
        return math.nan
    quantiles = float(stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1))
    return quantiles * statistics.stdev(differences) / math.sqrt(n)


def rows_of(study: Study, done: dict[str, Row]) -> dict[str, dict[int, Row]]:
    """Rows by arm and seed."""
    found: dict[str, dict[int, Row]] = {}
    for arm in study.arms:
        keys = {seed: key_of(config_of(study, arm, seed)) for seed in range(study.seeds)}
        found[arm.name] = {seed: done[key] for seed, key in keys.items() if key in done}
    return found


def comparisons(study: Study, done: dict[str, Row]) -> list[Comparison]:
    """Every arm of a study beside the one that it is compared with, over all pairs."""
    found, result = rows_of(study, done), []
    for arm in study.arms:
        mine, reference = found[arm.name], found.get(arm.against or "", {})
        gains = [mine[s]["top1"] - reference[s]["top1"] for s in mine.keys() & reference.keys()]
        if len(gains) > 1:
            result.append(Comparison(arm.name, *interval(gains)))
    return result


def table(study: Study, done: dict[str, Row]) -> Iterator[str]:
    """Lines of one study's table."""
    found = rows_of(study, done)
    half = study.seeds // 2
    parts: dict[str, Seeds] = {"all classes": lambda _: True}
    if study.confirm:
        parts = {
            f"all classes, seeds 0 to {half - 1}": lambda seed: seed < half,
            f"seeds {half} to {study.seeds - 1}": lambda seed: seed >= half,
        }
    yield f"## {study.title}\n"
    made = "seeds | turnovers | top-1 | difference to"
    yield f"| | {made} | {' | '.join(parts)} | few-shot | detectable |"
    yield f"| --- | ---: | ---: | ---: | --- |{' ---: |' * (len(parts) + 2)}"
    for arm in study.arms:
        mine = found[arm.name]
        if mine:
            yield _line(arm, mine, found.get(arm.against or "", {}), parts)
    yield ""


def _line(
    arm: Arm, mine: dict[int, Row], reference: dict[int, Row], parts: dict[str, Seeds]
) -> str:
    top = [row["top1"] for row in mine.values()]
    spread = statistics.stdev(top) if len(top) > 1 else math.nan
    often = statistics.fmean(row["turnovers"] for row in mine.values())
    cells = [
        arm.name,
        str(len(mine)),
        f"{often:.3g}",
        f"{statistics.fmean(top):.1f} ± {spread:.1f}",
    ]
    cells.append(arm.against or "")
    pairs = [(seed, mine[seed], reference[seed]) for seed in sorted(mine.keys() & reference.keys())]
    for chosen in parts.values():
        cells.append(_gain([a["top1"] - b["top1"] for seed, a, b in pairs if chosen(seed)]))
    few = [(a["splits"]["few"], b["splits"]["few"]) for _, a, b in pairs]
    cells.append(_gain([a - b for a, b in few if a is not None and b is not None]))
    gains = [a["top1"] - b["top1"] for _, a, b in pairs]
    cells.append(f"{detectable(gains):.1f}" if gains else "")
    return "| " + " | ".join(cells) + " |"


def _gain(differences: Sequence[float]) -> str:
    if not differences:
        return ""
    mean, half = interval(differences)
    return f"{mean:+.1f} ± {half:.1f}"


def direct(done: dict[str, Row]) -> Iterator[str]:
    """Lines of the table of arms beside each other."""
    yield "## Arms beside each other\n"
    yield "| study | arm | beside | seeds | all classes | few-shot |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    for name, first, second in DIRECT:
        found = rows_of(STUDIES[name], done)
        pairs = [(found[first][s], found[second][s])
                 for s in sorted(found[first].keys() & found[second].keys())]  # fmt: skip
        top = _gain([a["top1"] - b["top1"] for a, b in pairs])
        few = _gain([a["splits"]["few"] - b["splits"]["few"] for a, b in pairs])
        yield f"| {STUDIES[name].title} | {first} | {second} | {len(pairs)} | {top} | {few} |"
    yield ""


def write_tables(path: Path) -> None:
    """The part of the results page that is made of rows, between its two marks."""
    shown = wanted(list(STUDIES))
    done = {key: row for key, row in stored().items() if key in shown}
    pictures = [(s.title, comparisons(s, done)) for s in STUDIES.values()]
    draw(path.with_suffix(".svg"), [(title, found) for title, found in pictures if found])
    lines = [line for study in STUDIES.values() for line in table(study, done)]
    lines += direct(done)
    text = path.read_text(encoding="utf-8")
    begin, end = "<!-- tables -->", "<!-- end of tables -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    machines = sorted({row["machine"] for row in done.values()})
    versions = sorted({f"torch {r['versions']['torch']}, timm {r['versions']['timm']}"
                       for r in done.values()})  # fmt: skip
    made = f"{len(done)} runs; {'; '.join(versions)}; {'; '.join(machines)}; one thread each.\n"
    path.write_text(
        f"{head}{begin}\n{made}\n" + "\n".join(lines) + f"{end}{tail}", encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", help=", ".join(STUDIES))
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th run, from the i-th on")
    parser.add_argument("--tables", action="store_true", help="make no run")
    options = parser.parse_args()
    unknown = [name for name in options.studies if name not in STUDIES]
    if unknown:
        parser.error(f"no study {unknown[0]!r}; there are {', '.join(STUDIES)}")
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    if not options.tables:
        run(options.studies or list(STUDIES), options.shard)
    write_tables(TABLES)


if __name__ == "__main__":
    main()
