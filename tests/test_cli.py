"""The command line: help with an example each, JSON by its schema, exit codes, near names."""

import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import fxplastic
from fxplastic.cli import EXAMPLES, app, main
from fxplastic.commands.schema import NAMES, schema_of

Capture = pytest.CaptureFixture[str]


def run(words: str, capsys: Capture) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    capsys.readouterr()
    status = main(shlex.split(words))
    out, err = capsys.readouterr()
    return status, out, err


def printed_json(words: str, capsys: Capture, status: int = 0) -> dict:
    """The JSON that a command prints, after it was held against its schema."""
    found, out, err = run(f"{words} --json", capsys)
    assert found == status, err
    value = json.loads(out)
    command = words.split()[0]
    jsonschema.Draft202012Validator(schema_of(command)).validate(value)
    return value


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def small_model() -> nn.Module:
    """A builder that a test names as ``tests.test_cli:small_model``."""
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


SMALL = "tests.test_cli:small_model --input 2,3"


# ---------------------------------------------------------------- help
def test_every_command_has_an_example_and_a_schema():
    commands = {c.callback for c in app.registered_commands}
    assert commands == set(EXAMPLES)
    assert {f.__name__ for f in EXAMPLES} == {*NAMES, "schema"}


@pytest.mark.parametrize("command", [f.__name__ for f in EXAMPLES])
def test_help_shows_the_example(command: str, capsys: Capture):
    status, out, _ = run(f"{command} --help", capsys)
    example = next(text for f, text in EXAMPLES.items() if f.__name__ == command)
    assert status == 0
    assert example in " ".join(out.split())


def test_the_examples_run_one_after_the_other(capsys: Capture):
    for example in EXAMPLES.values():
        status, out, err = run(example.removeprefix("fxplastic "), capsys)
        assert (status, err if "Error" in err else "") == (0, ""), example
        assert out or "zoo" in example
    assert Path("half/model.safetensors").exists()
    assert "resnet18" in Path("half.html").read_text(encoding="utf-8")


def test_the_module_can_be_run_without_a_command(capsys: Capture):
    status, out, err = run("", capsys)
    assert status == 2
    assert "explain" in out + err


# ---------------------------------------------------------------- JSON
@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_schemas_and_refuse_an_empty_object(name: str):
    schema = schema_of(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, schema)


def test_groups_as_json_are_those_of_the_pass(capsys: Capture):
    found = printed_json(f"groups {SMALL}", capsys)
    plastic = fxplastic.plasticize(small_model(), torch.zeros(2, 3))
    assert found["fingerprint"] == plastic.fingerprint
    assert [(g["name"], g["size"]) for g in found["groups"]] == [("0.weight:0", 8)]
    assert [s["role"] for s in found["groups"][0]["sites"]] == ["producer", "producer", "consumer"]
    assert len(found["frozen"]) == len(plastic.frozen)


def test_match_chooses_groups_and_frozen_axes(capsys: Capture):
    found = printed_json(f"groups {SMALL} --match '2.*'", capsys)
    assert found["groups"] == []
    assert {axis["parameter"] for axis in found["frozen"]} == {"2.weight", "2.bias"}


def test_a_plan_as_json_is_the_plan_in_the_file(capsys: Capture):
    found = printed_json(f"plan {SMALL} --turnover 0.25 --out plan.json", capsys)
    assert found["groups"] == [
        {"name": "0.weight:0", "before": 8, "after": 8, "copies": 2, "pruned": 2}
    ]
    kept = fxplastic.Plan.from_json(Path("plan.json").read_text(encoding="utf-8"))
    assert fxplastic.Plan.from_json(json.dumps(found["plan"])) == kept
    assert not found["preserving"]


def test_plans_for_widths_and_budgets_say_what_comes_of_them(capsys: Capture):
    grown = printed_json(f"plan {SMALL} --width 1.5", capsys)
    assert grown["preserving"]
    assert grown["parameters"] == [50, 74]
    named = printed_json(f"plan {SMALL} --width 0.weight:0=4", capsys)
    assert named["groups"][0]["after"] == 4
    half = printed_json(f"plan {SMALL} --parameters 0.5 --scores random", capsys)
    assert half["parameters"][1] <= 25
    none = printed_json(f"plan {SMALL} --width 1.5 --protect '0.*'", capsys)
    assert none["groups"] == []


def test_scores_are_read_from_a_file(capsys: Capture):
    save_file({"0.weight:0": torch.arange(8.0)}, "scores.safetensors")
    found = printed_json(f"plan {SMALL} --turnover 0.25 --scores scores.safetensors", capsys)
    assert found["plan"]["groups"]["0.weight:0"]["take"] == [7, 6, 2, 3, 4, 5, 6, 7]


def test_an_explanation_as_json_names_op_and_source(capsys: Capture):
    found = printed_json("explain test_vit blocks.0.norm1.weight", capsys)
    part = found["axes"][0]["parts"][0]
    assert part["way"][-1]["does"] == "freezes"
    assert part["way"][-1]["op"] == "layer_norm"
    assert "norm.py:" in part["source"]


def test_two_plans_are_compared(capsys: Capture):
    for name, ratio in (("a", 0.25), ("b", 0.5)):
        run(f"plan {SMALL} --turnover {ratio} --out {name}.json", capsys)
    same = printed_json("diff a.json a.json", capsys)
    assert (same["same"], same["groups"]) == (True, [])
    other = printed_json("diff a.json b.json", capsys, status=1)
    assert len(other["groups"][0]["takes"]) == 2
    assert len(other["groups"][0]["pruned"][1]) == 4
    status, out, _ = run("diff a.json b.json", capsys)
    assert (status, "1 groups differ" in out) == (1, True)


def test_a_rewrite_is_checked_saved_and_can_be_looked_at_again(capsys: Capture):
    run(f"plan {SMALL} --width 1.5 --out plan.json", capsys)
    found = printed_json(f"rewrite {SMALL} plan.json --out wide --check", capsys)
    assert found["preserving"]
    assert found["error"] <= 1e-9
    assert found["parameters"] == [50, 74]
    again = printed_json("groups timm/test_resnet", capsys)
    assert again["model"] == "timm/test_resnet"


def test_a_rewrite_that_is_found_wrong_is_not_saved(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    run(f"plan {SMALL} --width 1.5 --out plan.json", capsys)
    monkeypatch.setattr("fxplastic.commands.rewrite.compared", lambda *_: float("nan"))
    status, out, _ = run(f"rewrite {SMALL} plan.json --out wide --check", capsys)
    assert (status, "not saved" in out, Path("wide").exists()) == (1, True, False)


def test_indices_are_known_to_commands_that_need_no_weights(capsys: Capture):
    words = "explain swin_tiny_patch4_window7_224 layers.0.blocks.0.attn"
    found = printed_json(f"{words}.relative_position_bias_table --axis 0", capsys)
    assert "more than once" in found["axes"][0]["parts"][0]["reason"]  # not: values not known


def test_a_saved_model_is_a_model(capsys: Capture):
    run("plan test_resnet --width 0.5 --out plan.json", capsys)
    run("rewrite test_resnet plan.json --out narrow", capsys)
    found = printed_json("groups narrow", capsys)
    assert found["parameters"] < printed_json("groups test_resnet", capsys)["parameters"]
    run("plan narrow --turnover 0.3 --out turn.json", capsys)
    twice = printed_json("rewrite narrow turn.json --out twice", capsys)
    assert twice["parameters"][0] == twice["parameters"][1] == found["parameters"]
    assert printed_json("groups twice", capsys)["fingerprint"] == found["fingerprint"]


def test_a_report_is_written(capsys: Capture):
    found = printed_json(f"report {SMALL} --scores l1 --out report.html", capsys)
    assert Path("report.html").stat().st_size == found["bytes"]


def test_a_training_run_prints_its_result(capsys: Capture):
    words = "train --data digits-lt --epochs 2 --warmup 0 --every 1 --out run --quiet"
    assert printed_json(words, capsys)["folder"] == "run"


def test_the_zoo_lists_and_checks(capsys: Capture):
    words = "zoo timm/test_resnet --rows rows --table table.md"
    assert printed_json(f"{words} --list", capsys)["models"] == ["timm/test_resnet"]


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("groups resnt18", "did you mean timm/resnet18"),
        ("groups torchvision/convnext_tinny", "torchvision/convnext_tiny"),
        ("groups tests.test_cli:smal_model", "has no 'smal_model'"),
        (f"explain {SMALL} 0.weigth", "did you mean '0.weight'"),
        (f"explain {SMALL} 0.weight --axis 2", "axis 2 of '0.weight'"),
        (f"groups {SMALL} --freeze 'x*'", "freeze='x*' matches no parameter"),
        (f"groups {SMALL} --attention vale", "attention='vale' is not known"),
        ("groups tests.test_cli:small_model --input 2;3", "--input 2;3: give sizes"),
        ("groups test_resnet --arg num_classes", "--arg num_classes: give KEY=VALUE"),
        (f"plan {SMALL}", "0 kinds of plan"),
        (f"plan {SMALL} --turnover 0.3 --width 2", "2 kinds of plan"),
        (f"plan {SMALL} --width wide", "--width wide"),
        (f"plan {SMALL} --turnover 0.3 --scores l3", "--scores l3"),
        ("diff none.json none.json", "there is no file none.json"),
        (f"groups {SMALL} --weights none.pt", "there is no file none.pt"),
        ("schema groop", "no command 'groop' prints JSON"),
        ("zoo --library tim", "--library tim"),
    ],
)  # fmt: skip
def test_errors_name_the_value_and_the_fix(words: str, text: str, capsys: Capture):
    status, out, err = run(words, capsys)
    assert (status, out) == (2, "")
    assert text in " ".join(err.split())


def test_a_flag_that_is_unknown_is_an_error(capsys: Capture):
    assert run("groups test_resnet --jsn", capsys)[0] == 2


# ---------------------------------------------------------------- weights
def test_weights_are_loaded_from_safetensors_and_checkpoints(capsys: Capture):
    torch.manual_seed(3)
    state = small_model().state_dict()
    save_file(state, "w.safetensors")
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in state.items()}}, "w.pt")
    takes = [
        printed_json(f"plan {SMALL} --turnover 0.25 --weights {name}", capsys)["plan"]
        for name in ("w.safetensors", "w.pt")
    ]
    scores = fxplastic.GradientScores(
        fxplastic.plasticize(_loaded(state), torch.zeros(2, 3)), "l1"
    ).values()["0.weight:0"]
    take = takes[0]["groups"]["0.weight:0"]["take"]
    assert takes[0] == takes[1]
    assert take[int(scores.argmin())] == int(scores.argmax())


def _loaded(state: dict[str, torch.Tensor]) -> nn.Module:
    model = small_model()
    model.load_state_dict(state)
    return model


def test_weights_that_do_not_fit_are_refused(capsys: Capture):
    state = small_model().state_dict()
    save_file(state | {"0.weight": torch.zeros(9, 3)}, "shape.safetensors")
    save_file({"other": torch.zeros(1)}, "names.safetensors")
    torch.save(small_model(), "module.pt")
    for name, text in (
        ("shape.safetensors", "'0.weight' has shape (9, 3)"),
        ("names.safetensors", "4 missing (0.bias, 0.weight, 2.bias, ...), 1 unknown (other)"),
        ("module.pt", "a whole pickled module is not loaded"),
    ):
        status, _, err = run(f"groups {SMALL} --weights {name}", capsys)
        assert status == 2
        assert text in " ".join(err.split())
