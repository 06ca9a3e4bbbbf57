"""`fxplastic zoo`: small models of 20 files of timm pass it, and so do all the transformers."""

import json
from pathlib import Path

import pytest
import torch

from fxplastic import FxPlasticError
from fxplastic.cli import main
from fxplastic.zoo import catalog, check, float64, rows, run, table, transformers

pytestmark = pytest.mark.filterwarnings("ignore")

FILES = (
    "test_byobnet", "test_convnext", "test_efficientnet", "test_mambaout", "test_resnet",
    "test_vit", "test_coatnet", "cpubone_nano", "cs3darknet_focus_s", "edgenext_xx_small",
    "fasternet_t0", "ghostnet_050", "hgnetv2_b0", "lcnetv2_small", "legacy_seresnet18",
    "mobilenetv3_small_050", "pit_ti_224", "poolformerv2_s12", "pvt_v2_b0", "regnetx_002",
)  # fmt: skip
SEEN = ("traced", "turnover_uneven", "turnover_signed", "growth", "pruning")


def row_of(library: str, name: str) -> float64.Row:
    return check.check(catalog.Entry(library, name), lambda program: None)


@pytest.mark.parametrize("name", FILES)
def test_a_small_model_passes(name: str) -> None:
    row = row_of("timm", name)
    assert check.problems(row) == []
    assert {*SEEN} <= row["float64"].keys()
    assert row["float64"]["modes"] == ["eval", "train"]
    assert row["coverage"]["default"] <= row["coverage"]["value"] <= row["coverage"]["approximate"]
    assert row["coverage"]["value"] > 0.2


def test_the_small_models_are_of_twenty_files() -> None:
    kinds = set()
    for name in FILES:
        entry = catalog.Entry("timm", name)
        kinds.add(catalog.family(entry, catalog.build(entry, {}, "meta")))
    assert len(kinds) == len(FILES) == 20


@pytest.mark.parametrize("name", transformers.CONFIGS)
def test_a_transformer_passes(name: str) -> None:
    row = row_of("transformers", name)
    assert check.problems(row) == []
    assert row["groups"] > 0 or name == "convnextv2"  # its response norm averages over all


@pytest.mark.parametrize("name", ["raft_small", "r3d_18", "lraspp_mobilenet_v3_large"])
def test_a_model_with_other_inputs_is_rewritten_on_meta(name: str) -> None:
    row = check.check(catalog.Entry("torchvision", name), lambda program: None, most=0)
    assert check.problems(row) == []
    assert row["meta"]["groups"] > 0
    assert "float64" not in row


def test_a_constructor_that_reads_tensors_is_built_with_values_first() -> None:
    model = catalog.build(catalog.Entry("torchvision", "regnet_y_400mf"), {}, "meta")
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


def test_a_model_that_cannot_be_built_is_a_row_with_the_step() -> None:
    row = row_of("timm", "no_such_model")
    assert row["step"] == "build"
    assert "no_such_model" in check.problems(row)[0]


def test_equal_programs_are_checked_once() -> None:
    first = row_of("timm", "test_vit")
    seen = []

    def reuse(program: str) -> float64.Row | None:
        seen.append(program)
        return {**first["float64"], "same_as": "timm/other"}

    again = check.check(catalog.Entry("timm", "test_vit"), reuse)
    assert seen == [first["program"]] == [again["program"]]
    assert again["float64"]["same_as"] == "timm/other"
    assert table.result(again) == "exact, as other"


def test_a_row_begun_without_weights_is_completed(tmp_path: Path) -> None:
    entry = catalog.Entry("timm", "test_vit")
    begun = run.go_through([entry], tmp_path, most=0)[entry.key]
    assert "float64" not in begun
    assert table.result(begun) == "float64 to come"
    begun = {**begun, "commit": "before"}
    rows.append(tmp_path, begun)
    whole = run.go_through([entry], tmp_path, most=10**8)[entry.key]
    assert check.problems(whole) == []
    assert {k: whole[k] for k in ("commit", "meta", "coverage", "discover_s")} == {
        k: begun[k] for k in ("commit", "meta", "coverage", "discover_s")
    }
    assert whole["float64"]["commit"] == rows.origin()["commit"] != "before"
    rows.append(tmp_path, {**begun, "versions": {"torch": "1.0"}})
    again = run.go_through([entry], tmp_path, most=10**8)[entry.key]
    assert again["commit"] == rows.origin()["commit"]
    assert "float64" in again


def test_a_wrong_figure_is_a_problem() -> None:
    good = {
        "model": "timm/a", "meta": {"turned": True, "shapes": True},
        "unexplained": 0.0,
        "float64": {"growth": 1e-12, "turnover_effect": 0.1, "modes": ["eval", "train"]},
    }  # fmt: skip
    assert check.problems(good) == []
    both = {"modes": ["eval", "train"]}
    wrong = [
        {**good, "meta": {"turned": True, "shapes": False}},
        {**good, "unexplained": 0.01},
        {**good, "float64": both | {"growth": 1e-8}},
        {**good, "float64": both | {"pruning": float("nan")}},
        {**good, "float64": both | {"growth_shapes": False}},
        {**good, "float64": both | {"turnover_effect": 1e-9}},
        {**good, "float64": {"modes": ["eval"]}},
    ]
    assert all(len(check.problems(row)) == 1 for row in wrong)


def test_refused_widths_are_no_plain_success() -> None:
    row = {
        "model": "timm/a", "groups": 3, "meta": {}, "unexplained": 0.0,
        "float64": {"modes": ["eval", "train"], "grown": 0},
    }  # fmt: skip
    assert table.result(row) == "exact, widths refused"
    row["float64"]["grown"] = 2
    assert table.result(row) == "exact"


def test_shapes_that_are_not_foretold_are_seen() -> None:
    entry = catalog.Entry("timm", "test_resnet")
    model = catalog.build(entry, {}, "meta")
    args, _ = catalog.own_inputs(entry, model).make("meta", torch.float32)
    import fxplastic

    plastic = fxplastic.plasticize(model, args)
    plan = fxplastic.plan_widths(plastic, 1.5)
    wider = fxplastic.rewrite(plastic, plan).module
    foretold = float64.predicted_shapes(plastic, plan)
    assert foretold == {n: list(t.shape) for n, t in wider.state_dict(keep_vars=True).items()}
    assert foretold != {n: list(t.shape) for n, t in plastic.state_dict(keep_vars=True).items()}


def test_the_command_stores_rows_passes_over_them_and_writes_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["zoo", "timm/test_resnet", "--rows", str(tmp_path / "rows")]
    words += ["--table", str(tmp_path / "zoo.md"), "--most", "0"]
    assert main(words) == 0
    stored = rows.load(tmp_path / "rows")
    assert list(stored) == ["timm/test_resnet"]
    assert stored["timm/test_resnet"]["versions"]["torch"] == torch.__version__.split("+")[0]
    written = (tmp_path / "zoo.md").read_text(encoding="utf-8")
    assert "| timm/test_resnet |" in written
    assert "not checked yet" in written
    before = (tmp_path / "rows" / "timm.jsonl").read_text(encoding="utf-8")
    assert main(words) == 0
    assert (tmp_path / "rows" / "timm.jsonl").read_text(encoding="utf-8") == before
    assert "1 models, 0 with problems" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no_such_*"], "'no_such_\\*' matches no model"),
        (["--library", "keras"], "there are timm, torchvision, transformers"),
        (["--shard", "3/2"], "give i/n"),
    ],
)
def test_bad_words_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["zoo", *words, "--rows", str(tmp_path)]) == 2
    import re

    assert re.search(said, capsys.readouterr().err)


def test_shards_are_disjoint_and_complete() -> None:
    every = catalog.entries(["timm"], ["resnet*"])
    parts = [run.shard(every, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(e.key for part in parts for e in part) == sorted(e.key for e in every)
    with pytest.raises(FxPlasticError):
        run.shard(every, "0/3")


def test_the_last_row_of_a_model_counts(tmp_path: Path) -> None:
    for seconds in (1, 2):
        rows.append(tmp_path, {"model": "timm/a", "seconds": seconds})
    rows.append(tmp_path, {"model": "torchvision/a", "seconds": 3})
    found = rows.load(tmp_path)
    assert [found[key]["seconds"] for key in ("timm/a", "torchvision/a")] == [2, 3]
    rows.tidy(tmp_path, found.values())
    text = (tmp_path / "timm.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [found["timm/a"]]
    assert rows.load(tmp_path) == found
