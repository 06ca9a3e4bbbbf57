"""Configurations: from files and flags, with an error for whatever does not fit."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fxplastic.errors import FxPlasticError, TrainingError
from fxplastic.schedule import Adaptive, Schedule
from fxplastic.training import Config, as_json, read_values
from fxplastic.training.command import parse
from fxplastic.training.config import as_values, differences


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_sets_what_it_names_and_flags_come_first(tmp_path: Path):
    path = written(tmp_path, 'lr = 1\nepochs = 40\nprotect = ["stem.*"]\n[model_args]\ndepth = 2\n')
    config, _ = parse(["--config", str(path), "--epochs", "50", "--turnover", "false", "--amp"])
    assert config == Config(
        lr=1.0, epochs=50, protect=("stem.*",), model_args={"depth": 2}, turnover=False, amp=True
    )
    assert isinstance(config.lr, float)


def test_flags_take_lists_tables_and_none(tmp_path: Path):
    path = written(tmp_path, "clip = 1.0\nepochs = 40")
    words = ["--protect", "a.*,b", "--model-args", "{drop_rate = 0.1}", "--clip", "none"]
    config, _ = parse(["--config", str(path), *words])
    assert (config.protect, config.model_args) == (("a.*", "b"), {"drop_rate": 0.1})
    assert config.clip is None


def test_every_field_has_a_flag_and_help(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{field.name.replace('_', '-')} " in shown for field in fields(Config))


def test_a_configuration_comes_back_from_its_json(tmp_path: Path):
    config = Config(epochs=40, model_args={"drop_rate": 0.1}, protect=("a",), clip=2.0)
    path = tmp_path / "config.json"
    path.write_text(as_json(config), encoding="utf-8")
    assert Config(**read_values(path)) == config
    assert json.loads(as_json(config)) == as_values(config)


def test_resuming_takes_the_configuration_of_the_folder(tmp_path: Path):
    config = Config(epochs=40, lr=0.5, out=str(tmp_path))
    (tmp_path / "config.json").write_text(as_json(config), encoding="utf-8")
    assert parse(["--resume", "--out", str(tmp_path)])[0] == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochz = 3", r"run.toml: there is no key 'epochz'; did you mean epochs"),
        ('lr = "fast"', r"run.toml: lr is 'fast'; give a number above 0"),
        ("lr = true", r"run.toml: lr is True; give a number above 0"),
        ("lr = nan", r"run.toml: lr is nan; give a number above 0"),
        ("epochs = 2.5", r"run.toml: epochs is 2.5; give a whole number at least 1"),
        ("ratio = 0.6", r"run.toml: ratio is 0.6; give a number above 0 and at most 0.5"),
        ("ratio = 0", r"run.toml: ratio is 0; give a number above 0 and at most 0.5"),
        ("seed = -1", r"run.toml: seed is -1; give a whole number at least 0"),
        ("amp = 1", r"run.toml: amp is 1; give true or false"),
        ('loss = "weigthed"', r"loss is 'weigthed'; give one of .*did you mean weighted"),
        ("protect = 'stem'", r"run.toml: protect is 'stem'; give a list of texts"),
        ("model_args = 3", r"run.toml: model_args is 3; give a table"),
        ("lr 0.1", r"run.toml cannot be read"),
    ],
)
def test_a_bad_file_is_refused_by_key_value_and_place(tmp_path: Path, text: str, message: str):
    with pytest.raises(TrainingError, match=message):
        read_values(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"nothing.toml cannot be read"):
        read_values(tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "many"], r"--epochs is 'many'; give a whole number at least 1"),
        (["--turnover", "perhaps"], r"--turnover is 'perhaps'; give true or false"),
        (["--model-args", "depth"], r"--model-args is 'depth'; give a table"),
        (["--lr", "0"], r"--lr is 0.0; give a number above 0"),
        (["--epoch", "3"], r"--epoch is no flag of fxplastic train; did you mean epochs"),
    ],
)
def test_a_bad_flag_is_refused(words: list[str], message: str):
    with pytest.raises(TrainingError, match=message):
        parse(words)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 30}, r"first turnover would be after epoch 30 \(every=30\).*after epoch 29"),
        ({"first": 250}, r"after epoch 250 \(first=250\)"),
        ({"last": 10}, r"after epoch 30 \(every=30\)"),
        ({"last": 200}, r"last=200: .*after epoch 199"),
        ({"schedule": "adaptive", "apart": 300}, r"after epoch 300 \(apart=300\)"),
        ({"schedule": "adaptive", "at_most": 1}, r"at_most=1 is less than apart=2"),
        ({"warmup": 200}, r"warmup=200 leaves nothing of epochs=200"),
        ({"drw_from": 5}, r"drw_from=5 has no effect on loss='cross_entropy'"),
        ({"loss": "drw", "drw_from": 201}, r"drw_from=201 lies past the last epoch, 200"),
        ({"score_every": 2}, r"score_every=2 has no effect without a score_loss"),
        ({"model_args": {"act_layer": Path}}, r"model_args is .*which cannot be stored"),
        ({"policy_args": {"sigmas": 1}}, r"policy_args has 'sigmas'; did you mean sigma"),
        ({"policy_args": {"scaling": "much"}}, r"scaling='much'"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, object], message: str):
    with pytest.raises(FxPlasticError, match=message):
        Config(**values)


def test_a_schedule_past_the_end_is_no_error_where_turnover_is_off():
    assert Config(epochs=10, every=30, turnover=False).epochs == 10


def test_the_schedule_leaves_the_last_epoch_alone():
    when = Config(epochs=60, every=30).when
    assert isinstance(when, Schedule)
    assert [epoch for epoch in range(1, 61) if when.due(epoch, None, {})[0]] == [30]
    assert Config(schedule="adaptive", at_most=9).when == Adaptive(0.9, 2, 9, 2, 199)


def test_the_policy_is_a_preset_with_changes():
    scaling = Config(policy="paper", policy_args={"sigma": 0.3}, carry="zero").scaling
    assert (scaling.scaling, scaling.noise) == ("norm", "absolute")
    assert (scaling.sigma, scaling.carry) == (0.3, "zero")


def test_a_tuple_among_the_arguments_is_the_same_as_the_list_that_a_file_has():
    values = as_values(Config(model_args={"channels": (8, 16)}))
    assert values["model_args"] == {"channels": [8, 16]}
    assert differences(values, json.loads(json.dumps(values))) == ()


def test_deferred_reweighting_starts_after_four_fifths():
    assert Config(loss="drw").first_weighted == 161


def test_differences_name_keys_and_values_but_not_the_place():
    ours = Config(epochs=40)
    other = replace(ours, epochs=50, out="elsewhere", device="cpu")
    assert differences(as_values(ours), as_values(ours)) == ()
    assert differences(as_values(ours), as_values(other)) == ("epochs: 50 -> 40",)
