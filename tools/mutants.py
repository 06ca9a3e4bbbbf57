"""Make docs/mutants.md: does every small mistake in a semantic rule make a check fail?

    python -m tools.mutants                 # every rule; prints the survivors
    python -m tools.mutants pointwise norm  # these files only, no table

Each mutant runs in a process of its own, on those adversarial modules that reach the changed line,
until one of them comes out wrong: another verdict, a turnover that is not masking, a permutation
that changes the function. What passes all of them is tried on random architectures, then it is a
survivor.
"""

import argparse
import importlib.machinery
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import coverage
import torch
from hypothesis import HealthCheck, given, seed, settings
from tqdm import tqdm

from tools.mutations import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "fxplastic" / "rules"
TABLE = ROOT / "docs" / "mutants.md"
PROGRAMS = 150
PATIENCE = 300  # seconds until a mutant that does not end counts as killed


def import_with(mutant: Mutant | None) -> None:
    """Import fxplastic in this process, with the mutant's source in place of one file."""
    if mutant is None:
        return
    loader = importlib.machinery.SourceFileLoader
    plain = loader.get_code

    def get_code(self: Any, name: str) -> CodeType | None:
        if Path(self.path) == mutant.path:
            return compile(mutant.source, self.path, "exec")
        return plain(self, name)

    loader.get_code = get_code  # type: ignore[method-assign]


# --- what is checked --------------------------------------------------------------------------


def case_fails(name: str) -> str:
    """Why an adversarial module comes out wrong; empty if it does not."""
    from tests import test_adversarial as checks

    case = next(case for case in checks.CASES if case.name == name)
    checks.test_exact_axes_are_found(case)
    checks.test_inexact_axes_are_frozen_with_the_reason(case)
    for attention in checks.OPTIONS.values():
        for shares in ("uneven", "signed"):
            checks.test_a_turnover_of_all_groups_equals_masking(case, shares, attention)
        checks.test_permutations_inside_blocks_preserve_outputs(case, attention)
    return ""


def program_fails(number: int, program: Any) -> None:
    """The same for a random architecture."""
    from tests.test_property import check_function

    check_function(program, number, Counter())


def first_failure(cases: Iterable[str], programs: Iterable[Any]) -> str:
    """The first check that fails; empty if none does."""
    for name in cases:
        try:
            case_fails(name)
        except Exception as error:  # whatever it is, it was noticed
            return f"{name}: {type(error).__name__}"
    for number, program in enumerate(programs):
        try:
            program_fails(number, program)
        except Exception as error:
            return f"random architecture {number}: {type(error).__name__}"
    return ""


# --- which modules reach which line -----------------------------------------------------------


@dataclass
class Reach:
    """Adversarial modules by the lines and the ops that they reach."""

    lines: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    ops: dict[str, set[str]] = field(default_factory=dict)
    weight: Counter[str] = field(default_factory=Counter)

    def cases(self, mutant: Mutant) -> list[str]:
        """Those that can see a mutant; those that reach little come first."""
        found = self.lines.get((mutant.path.name, mutant.line), set())
        if not mutant.function:
            found = self.ops.get(mutant.row, set()) or set(self.weight)
        return sorted(found, key=lambda name: (self.weight[name], name))


def measure_reach() -> Reach:
    """Discover every module once, and note what was executed."""
    from fxplastic import propagate
    from tests import test_adversarial as checks

    reach, here = Reach(), ""
    find = propagate.find

    def noted(function: Any) -> Any:
        reach.ops.setdefault(function.overloadpacket.__name__, set()).add(here)
        return find(function)

    propagate.find = noted
    meter = coverage.Coverage(include=[str(RULES / "*")], data_file=None, config_file=False)
    meter.start()
    for case in tqdm(checks.RUNNING, desc="reach", unit="module"):
        here = case.name
        meter.switch_context(here)
        for attention in checks.OPTIONS.values():
            checks.prepared(case.name, attention)
    meter.stop()
    data = meter.get_data()
    for path in data.measured_files():
        for line, names in data.contexts_by_lineno(path).items():
            reach.lines[Path(path).name, line] = set(names) - {""}
            reach.weight.update(set(names) - {""})
    return reach


def draw_programs(count: int) -> list[Any]:
    """Random architectures, always the same ones."""
    from tests.architectures import programs

    drawn: list[Any] = []

    @seed(0)
    @settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(programs())
    def collect(program: Any) -> None:
        drawn.append(program)

    collect()
    return drawn


# --- processes --------------------------------------------------------------------------------


def forked(work: Any, *arguments: Any, patience: int = 0) -> tuple[int, Path]:
    """Run `work` in a child process; its pickled result goes to a file."""
    path = Path(tempfile.mkstemp(suffix=".pickle")[1])
    child = os.fork()
    if child:
        return child, path
    status = 1
    try:
        signal.alarm(patience)
        path.write_bytes(pickle.dumps(work(*arguments)))
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def collected(path: Path, status: int) -> Any:
    """A child's result; text for one that died."""
    content = path.read_bytes()
    path.unlink()
    return pickle.loads(content) if status == 0 else f"ended with status {status}"


def examine(mutant: Mutant | None, cases: list[str], programs: list[Any]) -> str:
    """In a child: import, mutated or not, and look for a failure."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  (until the process ends)
    import_with(mutant)
    try:
        import tests.test_adversarial  # noqa: F401
    except Exception as error:
        return f"import: {type(error).__name__}"
    return first_failure(cases, programs)


def run(found: list[Mutant], reach: Reach, programs: list[Any], jobs: int) -> dict[Mutant, str]:
    """What killed each mutant; empty for survivors."""
    killed: dict[Mutant, str] = {}
    running: dict[int, tuple[Mutant, Path]] = {}
    waiting = list(reversed(found))
    with tqdm(total=len(found), desc="mutants", unit="mutant") as bar:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                child, path = forked(
                    examine, mutant, reach.cases(mutant), programs, patience=PATIENCE
                )
                running[child] = mutant, path
            child, status = os.wait()
            mutant, path = running.pop(child)
            killed[mutant] = collected(path, status)
            bar.update()
            if not killed[mutant]:
                bar.write(f"survived: {mutant}")
    return killed


def in_child(work: Any, *arguments: Any) -> Any:
    """The result of `work`, computed in a process that leaves nothing behind in this one."""
    child, path = forked(work, *arguments)
    _, status = os.waitpid(child, 0)
    return collected(path, status)


# --- the table --------------------------------------------------------------------------------


def render(killed: dict[Mutant, str], seconds: float) -> str:
    """The document."""
    from tools.exact import machine, versions

    counts: dict[tuple[str, str], Counter[str]] = {}
    for mutant, by in killed.items():
        row = counts.setdefault((mutant.path.stem, mutant.operator), Counter())
        row["survived" if not by else "killed"] += 1
        row["by a random architecture"] += by.startswith("random")
    lines = [
        f"| {file} | {operator} | {row.total() - row['by a random architecture']} | "
        f"{row['killed']} | {row['survived']} |"
        for (file, operator), row in sorted(counts.items())
    ]
    survivors = [f"- `{m}`" for m, by in killed.items() if not by] or ["None."]
    total = Counter(bool(by) for by in killed.values())
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join(
        [
            "# Mutants of the semantic rules",
            "",
            f"Made by `make mutants` in {seconds / 60:.0f} minutes on {machine()}; {known}.",
            "",
            "Each mutant is one mistake in a rule: a union or a context dropped, a role swapped, a",
            "freeze skipped, a wrong axis. It is killed when an adversarial module gets another",
            "verdict, or a turnover that is not masking, or when a random architecture does.",
            "",
            f"{total.total()} mutants, {total[True]} killed, {total[False]} survived.",
            "",
            "| rules | mistake | mutants | killed | survived |",
            "| --- | --- | --- | --- | --- |",
            *lines,
            "",
            "## Survivors",
            "",
            *survivors,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="as in pointwise; all when none is given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = [RULES / f"{name}.py" for name in options.files] or sorted(RULES.glob("*.py"))
    found = [mutant for path in paths for mutant in mutants(path)]
    start = time.perf_counter()
    reach = in_child(measure_reach)
    if not isinstance(reach, Reach):
        raise SystemExit(f"measuring which modules reach which line {reach}")
    programs = draw_programs(PROGRAMS)
    broken = in_child(examine, None, sorted(reach.weight), programs)
    if broken:
        print(f"without any mutant: {broken}")
        return 1
    killed = run(found, reach, programs, options.jobs)
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
