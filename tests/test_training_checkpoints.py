"""Checkpoints survive a full disk, and what is no whole checkpoint is refused."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fxplastic.errors import TrainingError
from fxplastic.training import checkpoints
from fxplastic.training.files import replace_file


def state(value: int) -> dict[str, object]:
    return {"epoch": value, "model": {"weight": torch.full((1000,), float(value))}}


def epoch(path: Path) -> object:
    return checkpoints.load(path)["epoch"]


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """A folder with two checkpoints."""
    path = tmp_path / "last.pt"
    checkpoints.save(path, state(1))
    checkpoints.save(path, state(2))
    return path


def test_what_was_saved_comes_back_and_the_one_before_is_kept(last: Path):
    loaded = checkpoints.load(last)
    assert loaded["epoch"] == 2
    assert torch.equal(loaded["model"]["weight"], torch.full((1000,), 2.0))
    assert epoch(last.with_name("previous.pt")) == 1
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.pt", "previous.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_the_last_checkpoint_is_still_there(last: Path):
    (last.parent / ".last.pt.tmp").symlink_to("/dev/full")
    message = r"last.pt could not be written: No space left on device; the last good checkpoint"
    with pytest.raises(TrainingError, match=message):
        checkpoints.save(last, state(3))
    assert epoch(last) == 2
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.pt", "previous.pt"]


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_disk_that_fails_at_the_end_leaves_the_last_checkpoint(
    last: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, full)
        with pytest.raises(TrainingError, match="No space left on device"):
            checkpoints.save(last, state(3))
    assert epoch(last) == 2
    assert not list(last.parent.glob(".*"))
    checkpoints.save(last, state(3))
    assert (epoch(last), epoch(last.with_name("previous.pt"))) == (3, 2)


def test_a_file_system_without_hard_links_still_keeps_the_one_before(
    last: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    checkpoints.save(last, state(3))
    assert (epoch(last), epoch(last.with_name("previous.pt"))) == (3, 2)


def test_two_names_of_one_checkpoint_become_two_checkpoints(last: Path):
    """What a kill leaves between the two steps of a save."""
    previous = last.with_name("previous.pt")
    previous.unlink()
    os.link(last, previous)
    checkpoints.save(last, state(3))
    assert (epoch(last), epoch(previous)) == (3, 2)
    assert not list(last.parent.glob(".*"))


def test_a_half_written_file_of_a_killed_run_is_overwritten(last: Path):
    (last.parent / ".last.pt.tmp").write_bytes(b"half")
    (last.parent / ".previous.pt.tmp").write_bytes(b"half")
    checkpoints.save(last, state(3))
    assert (epoch(last), epoch(last.with_name("previous.pt"))) == (3, 2)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    where = data.index(torch.full((8,), 2.0).numpy().tobytes())
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


@pytest.mark.parametrize("damage", [cut, flipped, lambda data: b"", lambda data: b"hello"])
def test_a_damaged_checkpoint_is_an_error_that_points_to_the_one_before(
    last: Path, damage: Callable[[bytes], bytes]
):
    last.write_bytes(damage(last.read_bytes()))
    with pytest.raises(TrainingError, match=r"last.pt cannot be read.*--resume-from .*previous.pt"):
        checkpoints.load(last)
    assert epoch(last.with_name("previous.pt")) == 1


def test_a_file_from_elsewhere_is_refused_and_runs_no_code(tmp_path: Path):
    path = tmp_path / "last.pt"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(TrainingError, match="it holds more than tensors and plain values"):
        checkpoints.load(path)
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(TrainingError, match="is no checkpoint of a training run"):
        checkpoints.load(path)


def test_another_version_is_refused(tmp_path: Path):
    path = tmp_path / "last.pt"
    torch.save({"format": checkpoints.FORMAT, "version": 99, "state": {}}, path)
    with pytest.raises(TrainingError, match="format version 99, and this fxplastic reads 1"):
        checkpoints.load(path)


def test_a_missing_checkpoint_is_named(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"there is no checkpoint .*last.pt"):
        checkpoints.load(tmp_path / "last.pt")


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path: Path):
    def interrupted(file: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "a", interrupted)
    assert not list(tmp_path.iterdir())
