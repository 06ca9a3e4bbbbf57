"""Going through the zoo: worker processes, a progress bar, rows stored as they come."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from tqdm import tqdm

from fxplastic.errors import FxPlasticError
from fxplastic.zoo import rows
from fxplastic.zoo.catalog import Entry
from fxplastic.zoo.check import check, problems
from fxplastic.zoo.float64 import Row

MODELS_PER_PROCESS = 12  # then its memory goes back


def shard(entries: Sequence[Entry], part: str) -> list[Entry]:
    """Every n-th entry, from the i-th on, for ``part = "i/n"`` with i from 1 to n.

    Raises:
        FxPlasticError: `part` is nothing of the kind.

    >>> [e.name for e in shard([Entry("timm", name) for name in "abcde"], "2/3")]
    ['b', 'e']
    """
    first, _, count = part.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise FxPlasticError(f"shard {part!r}; give i/n with i from 1 to n, as in 1/4")
    return list(entries[int(first) - 1 :: int(count)])


def go_through(
    entries: Sequence[Entry], folder: Path, most: int, *, again: bool = False
) -> dict[str, Row]:
    """Check every entry that has no good row yet, each in a process that is given up now and then.

    A process that dies (out of memory, say) costs its own model only, whose row says so.

    Args:
        entries: the models.
        folder: where rows are read and stored.
        most: models with more parameters have no float64 check.
        again: check models that have a good row, too.

    Returns:
        All rows in the folder.
    """
    done = {} if again else rows.load(folder)
    todo = [e for e in entries if not _finished(done.get(e.key), most)]
    origin = rows.origin()
    with tqdm(total=len(todo), desc="zoo", unit="model", disable=not todo) as bar:
        for entry, row in _checked(todo, folder, most, {} if again else origin):
            for part in [row, *([row["float64"]] if "float64" in row else [])]:
                part.setdefault("commit", origin["commit"])
            rows.append(folder, origin | row)
            bar.update()
            bar.set_postfix_str(entry.key)
            for problem in problems(row):
                bar.write(f"{entry.key}: {problem}")
    return rows.load(folder)


def _finished(row: Row | None, most: int) -> bool:
    """Whether a row says all that it can, and nothing bad."""
    return row is not None and not problems(row) and (row["parameters"] > most or "float64" in row)


def _checked(
    todo: Sequence[Entry], folder: Path, most: int, origin: Row
) -> Iterator[tuple[Entry, Row]]:
    context = multiprocessing.get_context("spawn")
    for start in range(0, len(todo), MODELS_PER_PROCESS):
        batch = list(todo[start : start + MODELS_PER_PROCESS])
        while batch:
            with ProcessPoolExecutor(1, mp_context=context, initializer=_start) as pool:
                try:
                    while batch:
                        yield batch[0], pool.submit(_one, batch[0], folder, most, origin).result()
                        del batch[0]
                except BrokenProcessPool:
                    row = {"model": batch[0].key, "step": "process", "error": "it was killed"}
                    yield batch[0], row
                    del batch[0]


def _start() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on, for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _one(entry: Entry, folder: Path, most: int, origin: Row) -> Row:
    stored = rows.load(folder)

    def reuse(program: str) -> Row | None:
        for row in stored.values():
            checks = row.get("float64", {})
            if row.get("program") == program and "same_as" not in checks and not problems(row):
                return {**checks, "same_as": row["model"]}
        return None

    begun = stored.get(entry.key)
    if begun is not None and (problems(begun) or not _alike(begun, origin)):
        begun = None
    return check(entry, reuse, most, begun)


def _alike(row: Row, origin: Row) -> bool:
    """Whether a row was begun by the same versions on the same machine."""
    return all(row[what] == origin.get(what) for what in ("versions", "machine"))
