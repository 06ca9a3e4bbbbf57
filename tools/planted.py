"""Make docs/planted.md: does a mistake in what surrounds the rules make a test fail?

    python -m tools.planted               # every mistake; the table
    python -m tools.planted memo.py       # those of these files only, no table

`tools.mutants` plants mistakes in the rules. These are in what makes discovery and rewriting fast,
and what keeps a rewrite whole: single places, chosen by hand (`tools/planted.toml`), each in a
copy of the package. What no test notices is a survivor: it has to be shown to change nothing, in
the table, or gets a test.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tools.exact import machine, versions

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "planted.md"
COPIED = ("fxplastic", "tests", "tools", "examples", "docs", "pyproject.toml")
MISTAKES = Path(__file__).with_suffix(".toml")
PATIENCE = 600  # seconds until tests that do not end count as failed


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        file: in the package.
        what: what goes wrong, in words.
        old: text that is in the file once.
        new: what it becomes.
        equivalent: why nothing can notice it; empty if something has to.
    """

    file: str
    what: str
    old: str
    new: str
    equivalent: str = ""


def stored() -> tuple[list[Mistake], dict[str, list[str]]]:
    """All mistakes, and for each file of the package the names of the tests that concern it."""
    table = tomllib.loads(MISTAKES.read_text(encoding="utf-8"))
    return [Mistake(**entry) for entry in table["mistakes"]], table["tests"]


def mistaken(source: str, mistake: Mistake) -> str:
    """The source with the mistake in it.

    Raises:
        ValueError: the place is not there, or there twice.
    """
    if source.count(mistake.old) != 1:
        raise ValueError(
            f"{mistake.old!r} is {source.count(mistake.old)} times in fxplastic/{mistake.file}; "
            "give text that is there once, in tools/planted.toml"
        )
    return source.replace(mistake.old, mistake.new)


def checkout(where: Path) -> Path:
    """A copy of what the tests need; the checkout itself is left alone."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, where / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, where / name)
    return where


def first_failure(where: Path, tests: Sequence[str]) -> str:
    """The first test that fails in a copy; empty if none does.

    Raises:
        RuntimeError: the tests did not run.
    """
    files = [f"tests/test_{name}.py" for name in tests]
    own = {"PYTHONPATH": str(where), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [sys.executable, *command, *files],
            cwd=where,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "it does not end"
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) tests/test_([\w.:]+)", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout}{done.stderr}")
    return found[1].replace(".py", "").replace("::", ": ")


def run(mistakes: Sequence[Mistake], tests: Mapping[str, Sequence[str]]) -> dict[Mistake, str]:
    """The first test that fails for each mistake; empty for survivors.

    Raises:
        ValueError: a mistake does not fit the code as it is.
        RuntimeError: a test fails without any mistake, or the tests did not run.
    """
    killers: dict[Mistake, str] = {}
    for mistake in mistakes:  # before anything is run: the code may have changed since
        mistaken((ROOT / "fxplastic" / mistake.file).read_text(encoding="utf-8"), mistake)
    with tempfile.TemporaryDirectory() as folder:
        where = checkout(Path(folder))
        files = sorted({mistake.file for mistake in mistakes})
        for name in tqdm(files, desc="without any mistake", unit="file"):
            failed = first_failure(where, tests[name])
            if failed:
                raise RuntimeError(f"without any mistake, a test fails already: {failed}")
        bar = tqdm(mistakes, unit="mistake")
        for mistake in bar:
            path = where / "fxplastic" / mistake.file
            right = path.read_text(encoding="utf-8")
            path.write_text(mistaken(right, mistake), encoding="utf-8")
            killers[mistake] = first_failure(where, tests[mistake.file])
            path.write_text(right, encoding="utf-8")
            if not killers[mistake]:
                bar.write(f"survived: {mistake.file}: {mistake.what}")
    return killers


# --- the table --------------------------------------------------------------------------------

HEAD = """# Mistakes planted around the rules

Made by `make planted` in {minutes:.0f} minutes on {machine}; {versions}.

[Mutants](mutants.md) are mistakes in the rules themselves. These are in what makes discovery fast
(one run for both modes, calls that are remembered, the ledger's shortcuts), and in gathering,
rewriting and summing: one place each, in a copy of the package, with the tests that concern the
file. {total} mistakes, {killed} noticed; {survived} noticed by no test, of which {equivalent}
change nothing, as is said below.

| file | mistake | noticed first by |
| --- | --- | --- |
"""


def render(killers: dict[Mistake, str], seconds: float) -> str:
    """The document."""
    alive = [m for m, killer in killers.items() if not killer]
    head = HEAD.format(
        minutes=seconds / 60,
        machine=machine(),
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
        total=len(killers),
        killed=len(killers) - len(alive),
        survived=len(alive),
        equivalent=sum(bool(m.equivalent) for m in alive),
    )
    lines = [
        f"| {m.file} | {m.what} | {f'`{killer}`' if killer else 'nothing'} |"
        for m, killer in killers.items()
    ]
    rest = [
        f"- `{m.file}`, {m.what}: {m.equivalent or '**not shown to change nothing**'}"
        for m in alive
    ]
    return head + "\n".join([*lines, "", "## Survivors", "", *(rest or ["None."]), ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="*", help="as in memo.py; all when none is given")
    options = parser.parse_args()
    mistakes, tests = stored()
    unknown = set(options.files) - set(tests)
    if unknown:
        parser.error(f"no mistakes are stored for {', '.join(sorted(unknown))}")
    chosen = [m for m in mistakes if not options.files or m.file in options.files]
    start = time.perf_counter()
    killers = run(chosen, tests)
    wrong = [m for m, killer in killers.items() if bool(killer) == bool(m.equivalent)]
    for mistake in wrong:
        said = f"noticed by {killers[mistake]}, and said to change nothing"
        print(f"{mistake.file}: {mistake.what}: {said if killers[mistake] else 'survived'}")
    print(f"{len(killers)} mistakes, {sum(map(bool, killers.values()))} noticed")
    if not options.files:
        TABLE.write_text(render(killers, time.perf_counter() - start), encoding="utf-8")
        print(TABLE)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
