"""The example of a loop of one's own runs, and turns neurons over."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "long_tail.py"


def test_the_example_turns_neurons_over_and_says_how_good_it_is(
    capsys: pytest.CaptureFixture[str],
):
    main = runpy.run_path(str(EXAMPLE))["main"]
    main(["--epochs", "3", "--every", "1", "--imbalance", "400"])
    printed = capsys.readouterr().out
    assert [f"epoch {epoch}: " in printed for epoch in (1, 2, 3)] == [True, True, False]
    assert "neurons of" in printed
    assert "all: " in printed
    assert "few: " in printed
