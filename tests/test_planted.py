"""Mistakes are planted in one place each, in a copy, and what no test notices is said."""

from pathlib import Path

import pytest

from tools import planted
from tools.planted import Mistake


def test_a_mistake_that_does_not_fit_the_code_is_refused() -> None:
    mistake = Mistake("memo.py", "a sum", "a + b", "a - b")
    assert planted.mistaken("c = a + b", mistake) == "c = a - b"
    for source in ("c = a * b", "c = a + b + a + b"):
        with pytest.raises(ValueError, match=r"'a \+ b' is \d times in fxplastic/memo.py"):
            planted.mistaken(source, mistake)


def test_stored_mistakes_are_each_about_another_thing() -> None:
    mistakes, tests = planted.stored()
    assert len({(m.file, m.what) for m in mistakes}) == len(mistakes) > 50
    assert {m.file for m in mistakes} == set(tests)
    assert all(m.old != m.new for m in mistakes)
    names = {name for some in tests.values() for name in some}
    assert all((planted.ROOT / "tests" / f"test_{name}.py").exists() for name in names)


@pytest.mark.parametrize(("plus", "killer"), [("+", ""), ("-", "sums: test_sum")])
def test_a_copy_is_tested_and_the_first_failure_named(
    plus: str, killer: str, tmp_path: Path
) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_sums.py").write_text(
        f"def test_none():\n    pass\n\n\ndef test_sum():\n    assert 1 {plus} 1 == 2\n"
    )
    assert planted.first_failure(tmp_path, ["sums"]) == killer


def test_tests_that_do_not_run_are_no_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="pytest ended with 4"):
        planted.first_failure(tmp_path, ["nothing"])


def test_the_table_says_which_survivors_change_nothing() -> None:
    noticed = Mistake("memo.py", "one", "a", "b")
    same = Mistake("memo.py", "two", "a", "c", "a is c")
    hole = Mistake("memo.py", "three", "a", "d")
    page = planted.render({noticed: "memo: test_a", same: "", hole: ""}, 60.0)
    assert "3 mistakes, 1 noticed; 2 noticed by no test, of which 1\nchange nothing" in page
    assert "| memo.py | one | `memo: test_a` |" in page
    assert "- `memo.py`, two: a is c" in page
    assert "- `memo.py`, three: **not shown to change nothing**" in page
