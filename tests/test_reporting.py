"""The report: whole HTML, nothing from outside, all of it escaped, and everything told in text."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import fxplastic
from fxplastic import Plan, Policy, Turnover, plasticize, report
from fxplastic.errors import PlanError, ReportError, ScoreError
from fxplastic.plastic import Plastic
from fxplastic.reporting.run_files import read_run
from fxplastic.training.config import Config
from fxplastic.training.loop import train
from tests.report_page import EVIL, Net, Page


@pytest.fixture(scope="module")
def net() -> fxplastic.PlasticModule:
    torch.manual_seed(0)
    return plasticize(Net().eval(), torch.randn(2, 3, 4, 4))


def turnover_of(plastic: Plastic, epoch: int) -> Turnover:
    plan = Plan.random(plastic, turnover=0.4, seed=epoch)
    return Turnover(epoch, plan, Policy.exact(), 0, 0.1)


@pytest.fixture
def run(net: fxplastic.PlasticModule, tmp_path: Path) -> Path:
    rows = ["epoch,lr,loss,top1,many,few,neurons,seconds,class_0,class_1"]
    rows += [f"{e},0.1,1.0,{10 * e},{11 * e},,0,1.0,{9 * e},{11 * e}" for e in range(1, 6)]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n6,0.1,1.")  # a line half written
    values = turnover_of(net, 2).as_dict()
    line = json.dumps(values | {"plan": json.loads(values["plan"]), "neurons": 2})
    (tmp_path / "plans.jsonl").write_text(line + "\n")
    return tmp_path


@pytest.fixture
def page(net: fxplastic.PlasticModule, run: Path) -> Page:
    scores = {name: torch.rand(g.size) for name, g in net.groups.items()}
    plan = Plan.random(net, turnover=0.4, grow=0.5, seed=1)
    return Page(report(net, plan=plan, scores=scores, run=run, title=EVIL).html)


def test_elements_are_closed_and_ids_unique(page: Page):
    assert page.wrong == []
    assert page.open == []
    assert [i for i, n in Counter(a["id"] for a in page.having("id")).items() if n > 1] == []


def test_every_reference_leads_to_an_element(page: Page):
    ids = {a["id"] for a in page.having("id")}
    keys = ("aria-labelledby", "aria-describedby", "aria-controls", "for")
    found = [str(a[key]) for key in keys for a in page.having(key)]
    found += [str(a["href"]).removeprefix("#") for a in page.of("a")]
    assert len(found) > 20
    assert set(found) <= ids


def test_nothing_is_loaded_from_outside(net: fxplastic.PlasticModule, page: Page, run: Path):
    assert page.having("src") == page.having("srcset") == page.having("xlink:href") == []
    assert [a["href"] for a in page.of("link")] == ["data:,"]
    html = report(net, run=run).html
    assert not re.search(r"https?:|url\(|@import|//[a-z]+\.", html)


def test_strings_of_the_model_are_escaped(page: Page):
    assert [a.get("type") for a in page.of("script")] == ["application/json", None]
    assert EVIL in "".join(page.text)  # as text
    assert any("<script>.0.weight" in text for text in page.text)
    assert page.of("script")[0] == {"type": "application/json", "id": "panels"}


def test_the_panels_data_cannot_end_its_script(net: fxplastic.PlasticModule):
    html = report(net).html
    data = html.split('id="panels">')[1].split("</script>")[0]
    assert "<" not in data
    assert [g["name"] for g in json.loads(data)["groups"]] == list(net.groups)


def test_every_group_reason_and_node_is_told(net: fxplastic.PlasticModule, page: Page):
    text = "\n".join(page.text)
    assert all(name in text for name in net.groups)
    assert net.frozen
    assert all(axis.reason in text for axis in net.frozen)
    rows = [a for a in page.of("li") if (a.get("class") or "").startswith("row")]
    assert len(rows) == len(net.traced.graphs[False].nodes)


def test_every_drawing_has_a_text_or_is_hidden_from_readers(page: Page):
    drawings = page.of("svg")
    told = [a for a in drawings if a.get("role") == "img" and a.get("aria-label")]
    hidden = [a for a in drawings if a.get("aria-hidden") == "true"]
    assert len(told) + len(hidden) == len(drawings)
    labels = " ".join(str(a["aria-label"]) for a in told)
    for word in ("median", "pruned", "turnovers at the end of 2", "lineage of 6 neurons"):
        assert word in labels


def test_scrolling_boxes_are_reached_by_the_keyboard_and_named(page: Page):
    boxes = [a for a in page.of("div") if a.get("class") == "scroll"]
    assert len(boxes) > 4
    for box in boxes:
        assert box["tabindex"] == "0"
        assert box.get("aria-label") or box.get("aria-labelledby")


def test_a_report_without_plan_scores_and_run_leaves_their_columns_out(net):
    html = report(net).html
    assert "pruned<span" not in html
    assert 'class="bars"' not in html
    assert 'id="run"' not in html
    assert "Plastic module" in html


def test_a_model_without_groups_has_a_report():
    page = Page(report(plasticize(nn.Linear(3, 2), torch.zeros(1, 3))).html)
    assert "There is no group" in "".join(page.text)
    assert page.wrong == []


def test_widths_parameters_and_macs_are_shown_before_and_after(net):
    plan = Plan.random(net, grow=0.5, seed=0)
    html, found = report(net, plan=plan).html, fxplastic.forecast(net, plan)
    assert found.parameters[1] > found.parameters[0]
    assert f"{found.parameters[1]:,}" in html
    assert f"{found.macs[1]:,}" in html


def test_saving_writes_the_page(net, tmp_path):
    made = report(net, title="ümläut")
    assert made.save(tmp_path / "a.html").read_text(encoding="utf-8") == made.html


def test_a_report_leaves_the_model_as_it_was(net):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    code = net.code
    report(net, plan=Plan.random(net, grow=0.5))
    assert net.code == code
    assert not net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


# -------------------------------------------------------------------------------- refusals
def test_scores_of_another_shape_are_refused(net):
    name = next(iter(net.groups))
    with pytest.raises(ScoreError, match=re.escape("(2,); give a tensor of shape (6,)")):
        report(net, scores={name: torch.rand(2)})
    with pytest.raises(ScoreError, match="are a list"):
        report(net, scores=[1.0])
    with pytest.raises(PlanError, match="no group 'nowhere'"):
        report(net, scores={"nowhere": torch.rand(2)})


def test_plans_and_turnovers_of_another_model_are_refused(net):
    other = plasticize(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(1, 3))
    with pytest.raises(PlanError, match="was made for groups"):
        report(net, plan=Plan.random(other))
    with pytest.raises(PlanError, match="was made for groups"):
        report(net, turnovers=[turnover_of(other, 1)])


def test_a_folder_that_no_run_wrote_is_refused(net, tmp_path):
    with pytest.raises(ReportError, match=re.escape(r"metrics.csv is not there")):
        report(net, run=tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,top1\n")
    with pytest.raises(ReportError, match="has no epoch yet"):
        read_run(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,top1\n1,many\n")
    with pytest.raises(ReportError, match="a line that no run wrote"):
        read_run(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,top1\n1,5\n")
    (tmp_path / "plans.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(ReportError, match=r"line 1 of .*plans.jsonl is no turnover"):
        read_run(tmp_path)


def test_a_half_written_last_line_of_a_run_is_left_out(run: Path):
    found = read_run(run)
    assert found.epochs == (1, 2, 3, 4, 5)
    assert found.splits["few"] == (None,) * 5
    assert found.splits["top1"][1] == 20.0
    assert [t.epoch for t in found.turnovers] == [2]


# -------------------------------------------------------------------------------- from a real run
def test_a_run_shows_the_life_of_its_neurons_and_its_classes(tmp_path: Path):
    config = Config(
        model="test_resnet", epochs=3, every=1, warmup=0, out=str(tmp_path / "run")
    )  # fmt: skip
    train(config, progress=False)
    plastic = plasticize(
        timm.create_model("test_resnet", num_classes=10), torch.zeros(2, 3, 32, 32)
    )
    found = Page(report(plastic, run=tmp_path / "run").html)
    text = " ".join(" ".join(found.text).split()).lower()
    assert "turnover" in text
    assert "accuracy" in text
    assert found.open == []


def test_the_pass_does_not_load_what_only_reports_need():
    lazy = ("jinja2.environment", "matplotlib", "rich", "typer")
    code = (
        "import sys, torch, timm, torchvision; before = set(sys.modules); import fxplastic; "
        f"print([m for m in {lazy} if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
