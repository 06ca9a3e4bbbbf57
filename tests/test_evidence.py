"""What the results page is made of: pairs are pairs, and intervals are what they say."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from fxplastic.training import Config
from tools.evidence import config_of, detectable, interval, key_of, key_of_values, table, values_of
from tools.studies import STUDIES, Arm, Study

ARMS = [(study, arm) for study in STUDIES.values() for arm in study.arms]
TURNOVER = {f for f in asdict(Config()) if f in (
    "ratio", "schedule", "every", "first", "last", "criterion", "copy", "score_loss", "policy",
    "policy_args", "carry", "scope", "overrides", "reestimate_bn", "stability", "apart",
)}  # fmt: skip


@pytest.mark.parametrize(("study", "arm"), ARMS, ids=[f"{s.title}: {a.name}" for s, a in ARMS])
def test_an_arm_differs_from_its_reference_by_the_turnover_alone(study: Study, arm: Arm) -> None:
    config = config_of(study, arm, 3)
    assert [a.name for a in study.arms].count(arm.name) == 1
    if arm.against is None:
        return
    (reference,) = (a for a in study.arms if a.name == arm.against)
    other = config_of(study, reference, 3)
    assert config.data_seed == other.data_seed == 3
    assert (config.seed == other.seed == 3) != arm.other_seed
    differing = {k for k, v in asdict(config).items() if v != asdict(other)[k]}
    allowed = TURNOVER | {"turnover"}
    if not config.turnover:  # another loss, seed or length beside the fixed-size run
        allowed = {"loss", "seed", "epochs", "checkpoint", "evaluate"}
    assert differing
    assert differing <= allowed


def test_fixed_runs_are_one_whatever_the_turnover_would_be() -> None:
    fixed = Arm("fixed", {"turnover": False}, against=None)
    base = STUDIES["controls"].base
    often = Study("often", {**base, "every": 2, "ratio": 0.1, "policy": "paper"}, (fixed,))
    assert key_of(config_of(often, fixed, 0)) == key_of(config_of(STUDIES["ratio"], fixed, 0))
    assert key_of(config_of(often, fixed, 0)) != key_of(config_of(often, fixed, 1))


def test_a_key_knows_what_a_preset_stands_for_and_options_that_came_later() -> None:
    config = config_of(STUDIES["ablation"], STUDIES["ablation"].arms[4], 0)
    values = values_of(config)
    assert values["policy"]["scaling"] == "norm"
    assert key_of_values(values) == key_of(config)
    later = {key: value for key, value in values.items() if key != "min_width"}
    assert key_of_values(later) == key_of(config)
    assert key_of_values({**values, "policy": {**values["policy"], "sigma": 0.2}}) != key_of(config)
    assert key_of_values({**values, "lr": 0.01}) != key_of(config)


def test_the_interval_is_that_of_students_t() -> None:
    sample = [1.0, 2.5, -0.5, 3.0, 0.2]
    mean, half = interval(sample)
    found = stats.ttest_1samp(sample, 0.0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((found.low, found.high))
    assert math.isnan(interval([1.0])[1])


def test_a_detectable_difference_is_found_in_four_of_five_cases() -> None:
    draw = np.random.default_rng(0)
    sigma, n, hits, found = 2.0, 10, 0, []
    for _ in range(2000):
        found.append(detectable(draw.normal(0.0, sigma, n).tolist()))
    effect = float(np.median(found))
    for _ in range(2000):
        mean, half = interval(draw.normal(effect, sigma, n).tolist())
        hits += abs(mean) > half
    assert hits / 2000 == pytest.approx(0.8, abs=0.06)


def test_a_table_compares_seed_by_seed() -> None:
    study = Study(
        "T", STUDIES["controls"].base,
        (Arm("fixed", {"turnover": False}, against=None), Arm("turnover", {})), seeds=3,
    )  # fmt: skip
    tops = {"fixed": (50.0, 60.0, 70.0), "turnover": (51.0, 62.0, 73.0)}
    done = {
        key_of(config_of(study, arm, seed)): {
            "top1": tops[arm.name][seed],
            "splits": {"few": None},
            "turnovers": seed,
        }
        for arm in study.arms
        for seed in range(3)
    }
    line = next(row for row in table(study, done) if row.startswith("| turnover"))
    mean, half = interval([1.0, 2.0, 3.0])
    assert line.split(" | ")[2] == "1"
    assert line.split(" | ")[4:7] == ["fixed", f"{mean:+.1f} ± {half:.1f}", ""]
    missing = {key: row for key, row in done.items() if row["top1"] != 73.0}
    short = next(row for row in table(study, missing) if row.startswith("| turnover"))
    assert short.split(" | ")[1] == "2"
