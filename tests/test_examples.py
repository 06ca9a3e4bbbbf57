"""The examples run, on settings that are small enough for a test."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    importlib.sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_demo_turns_over_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--epochs", "2", "--imbalance", "400", "--seed", "1", "--device", "cpu"]
    load("digits").main([*arguments, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "both runs alike up to the split (epoch 1): yes" in printed
    assert "splitting survivors into the freed slots" in printed
    assert json.loads((tmp_path / "plan.json").read_text())
    assert str(tmp_path / "plan.json") in printed


def test_the_demo_refuses_a_split_after_the_last_epoch(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        load("digits").main(["--epochs", "2", "--split", "3"])
    assert "--split is 3, it must be from 1 to --epochs (2)" in capsys.readouterr().err


def test_a_plan_is_read_before_it_is_carried_out(capsys: pytest.CaptureFixture[str]):
    load("inspect_plan").main()
    printed = capsys.readouterr().out
    assert "stem.weight:0 (producer)" in printed
    assert "head.weight:1 (consumer)" in printed
    assert "prunes [7]" in printed
    assert "2 -> [2, 7], shares [0.75, 0.25]" in printed
    assert "'head.weight'" in printed
    assert "head.bias" not in printed.split("changed by the plan")[1]
