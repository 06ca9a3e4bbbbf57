"""Whole runs on long-tailed digits: what they leave, how they go on, and what they refuse."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fxplastic
from fxplastic import Plan
from fxplastic.cli import main
from fxplastic.errors import FxPlasticError, TrainingError
from fxplastic.training import Config, build, checkpoints, loop, train

SMALL = Config(
    model="test_resnet",
    model_args={"drop_rate": 0.2, "channels": [16, 16, 32, 32], "stem_width": 16},
    imbalance=400,
    epochs=3,
    batch=96,
    lr=0.02,
    warmup=1,
    every=2,
    device="cpu",
)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(folder / "last.pt")["model"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was carried out through the command."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    words = "--model test_resnet --imbalance 400 --epochs 3 --batch 96 --lr 0.02 --warmup 1"
    words += f" --every 2 --device cpu --out {folder} --quiet"
    arguments = "{drop_rate = 0.2, channels = [16, 16, 32, 32], stem_width = 16}"
    assert main(["train", *words.split(), "--model-args", arguments]) == 0
    return folder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes as long as training here; the run of `finished` does it."""
    monkeypatch.setattr(loop, "draw_confusion", lambda *args: None)


def test_a_run_leaves_one_row_per_epoch(finished: Path):
    found = rows(finished)
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    assert [row["neurons"] != "0" for row in found] == [False, True, False]
    assert all(0 <= float(row["top1"]) <= 100 and float(row["loss"]) > 0 for row in found)
    assert {"many", "medium", "few", "lr", "seconds", "class_0", "class_9"} <= found[0].keys()
    # 40 test images of each class: top-1 is the mean over classes.
    per_class = [float(found[-1][f"class_{c}"]) for c in range(10)]
    assert float(found[-1]["top1"]) == pytest.approx(sum(per_class) / 10)


def test_epochs_may_go_without_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tested: list[int] = []
    plain = loop.predictions
    monkeypatch.setattr(loop, "predictions", lambda *a: (tested.append(1), plain(*a))[1])
    config = replace(SMALL, evaluate=2, plot=False, turnover=False, out=str(tmp_path / "run"))
    result = train(config, progress=False)
    found = rows(tmp_path / "run")
    assert [row["top1"] == "" for row in found] == [True, False, False]
    assert [row["class_0"] == "" for row in found] == [True, False, False]
    assert float(found[-1]["top1"]) == result.top1
    assert len(tested) == 3  # two epochs, and the result
    assert not (tmp_path / "run" / "confusion.png").exists()


def test_a_run_leaves_its_plans_and_its_result(finished: Path):
    (line,) = (finished / "plans.jsonl").read_text().splitlines()
    turnover = json.loads(line)
    plan = Plan.from_json(json.dumps(turnover["plan"]))
    assert turnover["epoch"] == 2
    assert sum(len(edit.pruned) for edit in plan.edits.values()) == turnover["neurons"]
    result = json.loads((finished / "result.json").read_text())
    assert (result["turnovers"], result["neurons"]) == (1, turnover["neurons"])
    assert result["top1"] == float(rows(finished)[-1]["top1"])
    assert (finished / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_configuration_gives_the_same_weights(finished: Path, tmp_path: Path):
    train(replace(SMALL, out=str(tmp_path)), progress=False)
    ours, theirs = weights(tmp_path), weights(finished)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_compiled_run_turns_over_the_very_same_model(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compiled: list[torch.nn.Module] = []

    def compile_(model: torch.nn.Module) -> Any:
        compiled.append(model)
        return torch.compile(model, backend="eager")  # captures the graph, generates no code

    monkeypatch.setattr(build, "compile_model", compile_)
    train(replace(SMALL, compile=True, out=str(tmp_path)), progress=False)
    assert len(compiled) == 1
    ours, theirs = weights(tmp_path), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_without_turnover_is_the_same_until_the_turnover(finished: Path, tmp_path: Path):
    train(replace(SMALL, turnover=False, out=str(tmp_path)), progress=False)
    fixed, turned = rows(tmp_path), rows(finished)
    assert [row["loss"] for row in fixed[:2]] == [row["loss"] for row in turned[:2]]
    assert fixed[2]["loss"] != turned[2]["loss"]
    assert fixed[0]["top1"] == turned[0]["top1"]


def test_a_finished_run_can_be_resumed_and_gives_its_result_again(finished: Path):
    before = (finished / "result.json").read_text()
    (finished / "result.json").unlink()
    result = train(replace(SMALL, out=str(finished)), resume=True, progress=False)
    assert (finished / "result.json").read_text() == before
    assert result.epochs == len(rows(finished)) == 3


def test_a_folder_with_a_run_is_not_overwritten(finished: Path):
    with pytest.raises(TrainingError, match=r"has a run already; give --resume"):
        train(replace(SMALL, out=str(finished)), progress=False)


def test_resuming_refuses_another_configuration_by_its_keys(finished: Path):
    other = replace(SMALL, out=str(finished), epochs=4, lr=0.5)
    message = r"another configuration \(epochs: 3 -> 4; lr: 0.02 -> 0.5\)"
    with pytest.raises(TrainingError, match=message):
        train(other, resume=True, progress=False)


def stopped_after(epoch: int, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until `epoch` is trained and on record, but stop before its checkpoint."""

    def stop(path: Path, state: dict[str, Any]) -> None:
        if state["epoch"] == epoch:
            raise KeyboardInterrupt
        checkpoints_save(path, state)

    checkpoints_save = checkpoints.save
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoints, "save", stop)
        train(config, progress=False)


def test_a_resumed_run_has_nothing_twice_and_ends_with_the_same_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace(SMALL, out=str(tmp_path))
    stopped_after(2, config, monkeypatch)
    assert len(rows(tmp_path)) == 2
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("3,0.1")  # a row that was cut off in the middle
    train(config, resume=True, progress=False)
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3"]
    assert len((tmp_path / "plans.jsonl").read_text().splitlines()) == 1
    ours, theirs = weights(tmp_path), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_goes_on_from_the_checkpoint_before_when_the_last_is_damaged(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = replace(SMALL, out=str(tmp_path))
    stopped_after(3, config, monkeypatch)
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=rf"--resume-from {previous}"):
        train(config, resume=True, progress=False)
    train(config, resume_from=previous, progress=False)
    ours, theirs = weights(tmp_path), weights(finished)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert checkpoints.load(previous)["epoch"] == 2


def test_missing_rows_are_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = replace(SMALL, out=str(tmp_path), turnover=False)
    stopped_after(2, config, monkeypatch)
    (tmp_path / "metrics.csv").unlink()
    with pytest.raises(
        TrainingError, match=r"rows of epochs \[\], and the checkpoint is of epoch 1"
    ):
        train(config, resume=True, progress=False)


def test_a_full_disk_ends_the_run_with_its_last_checkpoint_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    config = replace(SMALL, out=str(tmp_path), turnover=False)
    epoch_of = loop._epoch

    def filled(*args: Any) -> Any:
        if args[2] == 2:
            (tmp_path / ".last.pt.tmp").symlink_to("/dev/full")
        return epoch_of(*args)

    monkeypatch.setattr(loop, "_epoch", filled)
    with pytest.raises(TrainingError, match="No space left on device; the last good checkpoint"):
        train(config, progress=False)
    assert checkpoints.load(tmp_path / "last.pt")["epoch"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet_18"}, r"timm has no model 'resnet_18'; did you mean"),
        ({"model": "vit_tiny_patch16_224"}, r"does not take images of \(1, 32, 32\).*img_size"),
        ({"model_args": {"num_classes": 5}}, r"gives \(2, 5\) for two images, .* has 10 classes"),
        ({"model_args": {"depth": "x"}}, r"does not take images of .*TypeError"),
        ({"optimizer": "adamv"}, r"timm has no optimizer 'adamv'; did you mean adam"),
        ({"data": "digit-lt"}, r"digits-lt"),
        ({"device": "gpu"}, r"device='gpu'; give auto, cpu, cuda"),
        ({"device": "cuda:99"}, r"device='cuda:99', and there are"),
        ({"amp": True}, r"amp=true needs CUDA"),
        ({"protect": ("*",)}, r"no group would ever turn over"),
        ({"min_width": 1000}, r"no group would ever turn over: .*narrower than 1000"),
        ({"overrides": {"*": 0.6}}, r"overrides\['\*'\]=0.6"),
        ({"overrides": {"*": "much"}}, r"overrides has '\*' = 'much'; give a number"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
):
    config = replace(SMALL, **changes, out=str(tmp_path / "run"))
    with pytest.raises(FxPlasticError, match=message):
        train(config, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_model_without_groups_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Flat(torch.nn.Sequential):
        """One layer: inputs and outputs, and no neuron in between."""

    flat = Flat(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    monkeypatch.setattr(build.timm, "create_model", lambda *args, **kwargs: flat)
    with pytest.raises(TrainingError, match=r"has no channel group.*turnover=false.*frozen"):
        train(replace(SMALL, out=str(tmp_path)), progress=False)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path):
    config = replace(SMALL, lr=1e30, warmup=0, turnover=False, out=str(tmp_path))
    with pytest.raises(
        TrainingError, match=r"training loss of epoch 1 is (nan|inf); checkpoints of"
    ):
        train(config, progress=False)


def test_averages_clipping_scoring_and_statistics_work_together(tmp_path: Path):
    config = replace(
        SMALL,
        epochs=2,
        every=1,
        ema=0.9,
        clip=1.0,
        loss="logit_adjustment",
        score_loss="weighted",
        score_every=2,
        policy="paper",
        reestimate_bn=True,
        tensorboard=True,
        optimizer="adamw",
        lr=1e-3,
        out=str(tmp_path),
    )
    result = train(config, progress=False)
    state = checkpoints.load(tmp_path / "last.pt")
    assert result.turnovers == 1
    assert {"ema", "plasticity", "scheduler", "scaler", "random"} <= state.keys()
    assert not torch.equal(state["ema"]["module.fc.weight"], state["model"]["fc.weight"])
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_a_checkpoint_of_another_model_is_refused_whatever_its_configuration_says(
    finished: Path, tmp_path: Path
):
    state = checkpoints.load(finished / "last.pt")
    del state["model"]["fc.weight"]
    checkpoints.save(tmp_path / "last.pt", state)
    with pytest.raises(TrainingError, match=r"checkpoint's model does not fit (?s:.*)fc.weight"):
        train(replace(SMALL, out=str(tmp_path)), resume=True, progress=False)


def test_the_command_names_a_package_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name in [n for n in sys.modules if n.startswith("fxplastic.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(fxplastic, "training")
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    assert main(["train", "--epochs", "2"]) == 2
    assert "needs sklearn.metrics, which is not installed" in capsys.readouterr().err


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "--epochs", "0"]) == 2
    assert "fxplastic: --epochs is 0; give a whole number at least 1" in capsys.readouterr().err
