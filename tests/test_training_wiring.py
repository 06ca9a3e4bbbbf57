"""Every option of a run reaches what it is for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fxplastic import Plasticity, Policy, Schedule
from fxplastic.training import build, loop, train
from tests.test_training_loop import SMALL


class Recorder:
    """Stands in for the controller, and keeps what it was made and called with."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options
        self.plain = Plasticity(*args, **options)
        self.before: list[torch.Tensor] = []
        self.after: list[Any] = []
        Recorder.last = self

    def before_backward(self, loss: torch.Tensor) -> None:
        self.before.append(loss.detach())
        self.plain.before_backward(loss)

    def after_backward(self, scaler: Any) -> None:
        self.after.append(scaler)
        self.plain.after_backward(scaler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    last: "Recorder"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(build, "Plasticity", Recorder)
    return Recorder


def test_every_option_of_a_turnover_reaches_the_controller(recorded: type[Recorder]):
    config = replace(
        SMALL, ratio=0.4, every=2, window=2, criterion="net", scope="network", seed=7,
        protect=("layer1*",), overrides={"layer2*": 0.1}, min_width=3, score_loss="weighted",
        score_every=5, ema=0.9, policy="paper", policy_args={"sigma": 0.3}, carry="copy",
        copy="lowest",
    )  # fmt: skip
    parts = build.build(config)
    found = recorded.last.options
    assert found["schedule"] == Schedule(2, None, 2, window=2)
    assert found["policy"] == Policy(scaling="norm", noise="absolute", sigma=0.3, carry="copy")
    assert found["ema"] is parts.ema is not None
    assert found["adjust"]({"g": torch.ones(2)})["g"].tolist() == [-1.0, -1.0]
    expected = {
        "ratio": 0.4, "epochs": 3, "criterion": "net", "scope": "network", "seed": 7,
        "protect": ("layer1*",), "overrides": {"layer2*": 0.1}, "min_width": 3, "score_every": 5,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    build.build(SMALL)
    assert recorded.last.options["adjust"] is recorded.last.options["ema"] is None


@pytest.mark.parametrize("clip", [None, 1.0])
def test_the_loss_that_trains_scores_unless_another_is_named(
    recorded: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None
):
    config = replace(SMALL, epochs=2, every=1, evaluate=2, plot=False, clip=clip, turnover=True)
    train(replace(config, out=str(tmp_path / "own")), progress=False)
    assert recorded.last.before == []
    assert all((scaler is None) == (clip is not None) for scaler in recorded.last.after)
    steps = len(recorded.last.after)
    plain = build.make_loss
    monkeypatch.setattr(
        build,
        "make_loss",
        lambda name, *a, **k: (
            (lambda logits, *_: 7.0 + (logits - logits.detach()).sum())
            if name == "few"
            else plain(name, *a, **k)
        ),
    )
    train(replace(config, score_loss="few", out=str(tmp_path / "other")), progress=False)
    assert recorded.last.after == []
    assert len(recorded.last.before) == steps > 2
    assert all(float(loss) == 7.0 for loss in recorded.last.before)


@pytest.mark.parametrize(("ema", "models"), [(None, 1), (0.9, 2)])
def test_statistics_are_estimated_anew_after_each_turnover_of_all_that_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float | None, models: int
):
    seen: list[Any] = []
    plain = loop.update_bn
    monkeypatch.setattr(loop, "update_bn", lambda *a: (seen.append(a[1]), plain(*a)))
    config = replace(SMALL, reestimate_bn=True, ema=ema, plot=False, out=str(tmp_path / "run"))
    assert train(config, progress=False).turnovers == 1
    assert len({id(model) for model in seen}) == len(seen) == models


def test_random_numbers_depend_on_the_seed_and_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[int, int]] = []
    plain = loop.seed_all
    monkeypatch.setattr(loop, "seed_all", lambda *a: (seen.append(a), plain(*a))[1])
    config = replace(
        SMALL, seed=11, turnover=False, evaluate=3, plot=False, out=str(tmp_path / "r")
    )
    train(config, progress=False)
    assert seen == [(11, 1), (11, 2), (11, 3)]
