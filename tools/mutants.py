"""Make docs/mutants.md: does every small mistake in a semantic rule make a check fail?

    python -m tools.mutants                 # every rule; prints the survivors
    python -m tools.mutants pointwise norm  # these files only, no table

Each mutant runs in a process of its own, on those adversarial modules and random architectures that
reach the changed line, until one of them comes out wrong: another verdict than it must get, a
turnover that is not masking, a permutation that changes the function. What passes all of them is
a survivor.
"""

import argparse
import importlib
import importlib.machinery
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import coverage
import torch
from hypothesis import HealthCheck, given, seed, settings
from torch import nn
from tqdm import tqdm

from fxplastic import propagate
from fxplastic.module import PlasticModule
from fxplastic.propagate import LOST
from fxplastic.trace import Traced, trace
from tests.adversarial import Case
from tests.architectures import programs
from tests.oracle import (
    assert_permutation_preserves_outputs,
    assert_turnover_equals_masking,
    prepare,
)
from tests.programs import Program
from tests.test_adversarial import RUNNING, layout
from tools.exact import machine, versions
from tools.mutations import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "fxplastic" / "rules"
TABLE = ROOT / "docs" / "mutants.md"
PROGRAMS = 150
PATIENCE = 300  # seconds until a mutant that does not end counts as killed
MADE_OF_RULES = ("fxplastic.propagate", "fxplastic.names_run", "fxplastic.discover")


# --- subjects: what is checked, traced once ---------------------------------------------------

OPTIONS: tuple[str | None, ...] = (None, "value")
Verdict = tuple[str, frozenset[str]]


@dataclass(eq=False)
class Subject:
    """A module with its graphs, and what is found on it without any mutant."""

    name: str
    model: nn.Module
    inputs: tuple[Any, ...]
    traced: Traced
    case: Case | None = None
    right: dict[str | None, Verdict] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, model: nn.Module, inputs: tuple[Any, ...], case: Case | None
    ) -> "Subject":
        """Trace the module."""
        model = prepare(model)
        return cls(name, model, inputs, trace(model, inputs), case)

    def found(self, attention: str | None) -> PlasticModule:
        """Discover its groups, by the rules as they are now."""
        discover = importlib.import_module("fxplastic.discover").discover
        found = discover(self.model, self.traced, attention=attention)
        return PlasticModule(self.model, self.traced, found.groups, found.frozen)

    def fails(self) -> str:
        """Why it comes out wrong; empty if it does not."""
        for attention in OPTIONS:
            plastic = self.found(attention)
            if verdict(plastic) != self.right.get(attention):
                self.check(plastic, attention)
        return ""

    def check(self, plastic: PlasticModule, attention: str | None) -> None:
        """Raise unless the groups found are what they must be."""
        assert not any(LOST in record.reason for record in plastic.frozen)
        if self.case is not None and attention is None:
            check_verdict(self.case, plastic)
        for seed_, shares in enumerate(("uneven", "signed")):
            assert_turnover_equals_masking(
                self.model, self.inputs, plastic, seed=seed_, shares=shares
            )
        assert_permutation_preserves_outputs(self.model, self.inputs, plastic)


def verdict(plastic: PlasticModule) -> Verdict:
    """What of a discovery can be right or wrong."""
    reasons = (f"{r.parameter}:{r.axis} {r.reason}" for r in plastic.frozen)
    return plastic.fingerprint, frozenset(reasons)


def check_verdict(case: Case, plastic: PlasticModule) -> None:
    """The verdict that an adversarial module must get."""
    for axis, want in case.exact.items():
        assert want in ("any", layout(plastic, axis))
    for axis, pattern in case.frozen.items():
        reasons = [r.reason for r in plastic.frozen if f"{r.parameter}:{r.axis}" == axis]
        assert not layout(plastic, axis)
        assert any(re.search(pattern, reason) for reason in reasons)


def first_failure(subjects: Iterable[Subject]) -> str:
    """The first check that fails; empty if none does."""
    for subject in subjects:
        try:
            subject.fails()
        except Exception as error:  # whatever it is, it was noticed
            return f"{subject.name}: {type(error).__name__}"
    return ""


def mutate(mutant: Mutant) -> None:
    """Import the rules, and what imports them, anew, with the mutant's source for one file."""
    loader = importlib.machinery.SourceFileLoader
    plain = loader.get_code

    def get_code(self: Any, name: str) -> CodeType | None:
        if Path(self.path) == mutant.path:
            return compile(mutant.source, self.path, "exec")
        return plain(self, name)

    loader.get_code = get_code  # type: ignore[method-assign]
    for name in list(sys.modules):
        if name.startswith("fxplastic.rules") or name in MADE_OF_RULES:
            del sys.modules[name]


# --- which modules reach which line -----------------------------------------------------------


@dataclass
class Reach:
    """Subjects by the lines and the ops that they reach."""

    lines: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    ops: dict[str, set[str]] = field(default_factory=dict)
    weight: Counter[str] = field(default_factory=Counter)

    def names(self, mutant: Mutant) -> list[str]:
        """Those that can see a mutant; those that reach little come first."""
        found = self.lines.get((mutant.path.name, mutant.line), set())
        if not mutant.function:  # the rows of most tables are ops
            found = self.ops.get(mutant.row, set()) if mutant.path.stem != "combine" else set()
            found = found or set(self.weight)
        return sorted(found, key=lambda name: (self.weight[name], name))


def measure_reach(subjects: Sequence[Subject]) -> Reach:
    """Discover every subject once, and note what was executed and found."""
    reach, here = Reach(), ""
    find = propagate.find

    def noted(function: Any) -> Any:
        reach.ops.setdefault(function.overloadpacket.__name__, set()).add(here)
        return find(function)

    meter = coverage.Coverage(include=[str(RULES / "*")], data_file=None, config_file=False)
    propagate.find = noted
    meter.start()
    for subject in tqdm(subjects, desc="reach", unit="module"):
        here = subject.name
        meter.switch_context(here)
        for attention in OPTIONS:
            subject.right[attention] = verdict(subject.found(attention))
    meter.stop()
    propagate.find = find
    data = meter.get_data()
    for path in data.measured_files():
        for line, names in data.contexts_by_lineno(path).items():
            reach.lines[Path(path).name, line] = set(names) - {""}
            reach.weight.update(set(names) - {""})
    return reach


def draw_programs(count: int) -> list[Program]:
    """Random architectures, always the same ones."""
    drawn: list[Program] = []

    @seed(0)
    @settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(programs())
    def collect(program: Program) -> None:
        drawn.append(program)

    collect()
    return drawn


def make_subjects() -> list[Subject]:
    """Every adversarial module, then random architectures."""
    made = [Subject.of(c.name, c.model(), c.inputs(), c) for c in tqdm(RUNNING, desc="trace")]
    for number, program in enumerate(tqdm(draw_programs(PROGRAMS), desc="trace")):
        name = f"random architecture {number}"
        made.append(Subject.of(name, program.build(), program.inputs(), None))
    return made


# --- processes --------------------------------------------------------------------------------


def examine(mutant: Mutant, subjects: Iterable[Subject], report: int) -> None:
    """In a child: mutate, look for a failure, and write what it was to a pipe."""
    signal.alarm(PATIENCE)
    try:
        mutate(mutant)
        importlib.import_module("fxplastic.discover")
        killer = first_failure(subjects)
    except Exception as error:
        killer = f"import: {type(error).__name__}"
    os.write(report, killer.encode())


def forked(mutant: Mutant, subjects: Iterable[Subject]) -> tuple[int, int]:
    """Start `examine` in a child; its process and where its report comes from."""
    here, there = os.pipe()
    child = os.fork()
    if child:
        os.close(there)
        return child, here
    try:
        examine(mutant, subjects, there)
    finally:
        os._exit(0)


def run(found: list[Mutant], subjects: list[Subject], jobs: int) -> dict[Mutant, str]:
    """What killed each mutant; empty for survivors."""
    reach, by_name = measure_reach(subjects), {s.name: s for s in subjects}
    killed: dict[Mutant, str] = {}
    running: dict[int, tuple[Mutant, int]] = {}
    waiting = list(reversed(found))
    with tqdm(total=len(found), desc="mutants", unit="mutant") as bar:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                child, report = forked(mutant, [by_name[name] for name in reach.names(mutant)])
                running[child] = mutant, report
            child, status = os.wait()
            mutant, report = running.pop(child)
            with os.fdopen(report) as text:
                killed[mutant] = text.read() if status == 0 else f"ended with status {status}"
            bar.update()
            if not killed[mutant]:
                bar.write(f"survived: {mutant}")
    return killed


# --- the table --------------------------------------------------------------------------------

HEAD = """# Mutants of the semantic rules

Made by `make mutants` in {minutes:.0f} minutes on {machine}; {versions}.

Each mutant is one mistake in a rule: a union or a context dropped, a role swapped, a freeze
skipped, a wrong axis. It is killed when an adversarial module gets another verdict than it must
get, or a turnover that is not masking, or when a random architecture does.

{total} mutants, {killed} killed, {survived} survived.

| rules | mistake | mutants | killed | survived |
| --- | --- | --- | --- | --- |
"""


def render(killed: dict[Mutant, str], seconds: float) -> str:
    """The document."""
    counts: dict[tuple[str, str], Counter[bool]] = {}
    for mutant, killer in killed.items():
        counts.setdefault((mutant.path.stem, mutant.operator), Counter())[bool(killer)] += 1
    total = sum(counts.values(), Counter())
    head = HEAD.format(
        minutes=seconds / 60,
        machine=machine(),
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
        total=total.total(),
        killed=total[True],
        survived=total[False],
    )
    lines = [
        f"| {file} | {operator} | {row.total()} | {row[True]} | {row[False]} |"
        for (file, operator), row in sorted(counts.items())
    ]
    survivors = [f"- `{m}`" for m, by in killed.items() if not by] or ["None."]
    return head + "\n".join([*lines, "", "## Survivors", "", *survivors, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="as in pointwise; all when none is given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = [RULES / f"{name}.py" for name in options.files] or sorted(RULES.glob("*.py"))
    found = [mutant for path in paths for mutant in mutants(path)]
    start = time.perf_counter()
    subjects = make_subjects()
    broken = first_failure(subjects)  # checked in full: what is right is not known yet
    if broken:
        print(f"without any mutant: {broken}")
        return 1
    killed = run(found, subjects, options.jobs)
    survivors = [mutant for mutant, by in killed.items() if not by]
    print(f"{len(killed)} mutants, {len(killed) - len(survivors)} killed")
    for mutant in survivors:
        print(f"survived: {mutant}")
    if not options.files:
        TABLE.write_text(render(killed, time.perf_counter() - start), encoding="utf-8")
        print(TABLE)
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
