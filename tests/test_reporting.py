"""The report: whole HTML, nothing from outside, all of it escaped, and everything told in text."""

import itertools
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import fxplastic
from fxplastic import Plan, Policy, Turnover, plasticize, report
from fxplastic.errors import PlanError, ReportError, ScoreError
from fxplastic.flow import Flow, Held, Step, Touch
from fxplastic.plastic import Plastic
from fxplastic.reporting.charts import chart
from fxplastic.reporting.dot import quoted
from fxplastic.reporting.graph_view import MOST_CHIPS, graph_view
from fxplastic.reporting.group_view import panels
from fxplastic.reporting.histogram import histogram
from fxplastic.reporting.lanes import HEIGHT, MOST, draw_lane, draw_section, lane_count, lay_lanes
from fxplastic.reporting.life import life_of
from fxplastic.reporting.run_files import read_run
from fxplastic.reporting.run_view import lineage, run_view
from fxplastic.reporting.sections import Section, nest

VOID = set("meta link input br hr img path".split())
EVIL = "<script>alert('x')</script>"


class Net(nn.Module):
    """A residual block under a name that must be escaped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.add_module("<script>", nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()))
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + getattr(self, "<script>")(x)
        return self.head(x.mean((2, 3)))


class Page(HTMLParser):
    """A page's elements, and whether every one that opens is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def having(self, key: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if key in attributes]


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


# -------------------------------------------------------------------------------- parts
def test_a_half_written_last_line_of_a_run_is_left_out(run: Path):
    found = read_run(run)
    assert found.epochs == (1, 2, 3, 4, 5)
    assert found.splits["few"] == (None,) * 5
    assert found.splits["top1"][1] == 20.0
    assert [t.epoch for t in found.turnovers] == [2]


def test_lanes_follow_values_from_their_node_to_their_last_reader():
    lanes = lay_lanes([("x", ()), ("a", ("x",)), ("b", ("a",)), ("c", ("b", "x")), ("out", ("c",))])
    assert [lane.own for lane in lanes] == [0, 1, 1, 0, 0]
    assert lanes[2].below == {0, 1}
    assert lanes[3].below == {0}
    assert lanes[4].below == set()
    assert lanes[3].reads == (1, 0)
    for before, after in itertools.pairwise(lanes):
        assert before.below == after.above


def test_lanes_beyond_the_drawn_ones_share_one():
    nodes = [(f"n{i}", ()) for i in range(MOST + 9)]
    lanes = lay_lanes([*nodes, ("cat", [name for name, _ in nodes])])
    assert lane_count(lanes) == MOST + 1
    assert draw_lane(lanes[-2]).bundle
    assert not draw_lane(lanes[3]).bundle
    assert max(map(int, re.findall(r"[MC ](\d+) \d", draw_lane(lanes[-1]).lines))) < 100


def test_a_closed_section_joins_what_goes_in_and_comes_out():
    lanes = lay_lanes([("x", ()), ("a", ("x",)), ("b", ("a",)), ("c", ("b", "x"))])
    closed, opened = (draw_section(lanes[1:3], opened=o) for o in (False, True))
    assert closed.dot
    assert not opened.dot
    assert f"V{HEIGHT}" in opened.lines
    assert closed.lines != opened.lines


def test_sections_hold_consecutive_rows_of_one_module_each_once():
    parts = nest(["", "a.b.c", "a.b.c", "a.b", "a.d", "e", "a.b", "a.b"])
    assert [p.path for p in parts if isinstance(p, Section)] == ["a", "a.b"]

    def rows(parts):
        return [r for p in parts for r in (rows(p.parts) if isinstance(p, Section) else [p])]

    assert rows(parts) == list(range(8))


def step(node: str, *held: Held, module: str = "", inputs: tuple[str, ...] = ()) -> Step:
    touch = Touch("w", 0, "producer", held[0].group, "", 4) if held else None
    source = "/home/me/net.py:3 in forward"
    touches = () if touch is None else (touch,)
    return Step(node, "add", module, source, (2, 4), inputs, (), held, touches)


def test_a_row_with_many_groups_shows_a_few_and_counts_the_rest():
    names = [f"g{i}" for i in range(9)]
    steps = Flow((step("cat", *(Held((1,), name, "", 4) for name in names)),))
    (row,) = graph_view(steps, names, []).parts
    assert len(row.chips) == MOST_CHIPS
    assert row.more == 9 - MOST_CHIPS
    assert row.groups == tuple(range(9))
    assert row.source == "me/net.py:3 in forward"


def test_one_lock_stands_for_all_axes_of_a_reason():
    held = Held((0,), None, "output", 2), Held((1,), None, "output", 4), Held((1,), None, "norm", 4)
    (row,) = graph_view(Flow((step("x", *held),)), [], ["output", "norm"]).parts
    assert [(lock.index, lock.axes) for lock in row.locks] == [(0, "0,1"), (1, "1")]


def test_large_models_start_with_blocks_closed_and_small_ones_open():
    def shown(blocks: int) -> list[bool]:
        steps = [step(f"n{i}_{j}", module=f"b.{i}") for i in range(blocks) for j in range(5)]
        (top,) = graph_view(Flow(tuple(steps)), [], []).parts
        return [top.shown, *(part.shown for part in top.parts)]

    assert shown(3) == [True] * 4
    assert shown(30) == [True] + [False] * 30


def test_panels_name_each_parameter_and_line_once(net):
    data = panels(net.groups, fxplastic.flow.flow(net))
    assert len(set(data["parameters"])) == len(data["parameters"])
    sites = {s.parameter for g in net.groups.values() for s in g.sites}
    assert set(data["parameters"]) == sites
    assert all(group["sources"] for group in data["groups"])


def test_histograms_leave_out_what_is_not_finite_and_say_so():
    found = histogram([1.0, float("nan"), 3.0, float("inf")], copied=[3], pruned=[0])
    assert found.label.endswith("1 pruned at 1; 2 not finite, left out")
    assert found.copied == ""
    assert found.pruned.count("M") == 1
    assert "median \u2013" in histogram([float("nan")]).label
    assert histogram([2.0, 2.0]).bars.count("M") == 1
    assert histogram([-1e308, 1e308]).bars.count("M") == 2


def test_life_follows_neurons_through_turnovers(net):
    name, size = "a", 4
    first, second = ((0, 1, 0, 3), (0, 1, 1, 1))
    edits = [fxplastic.plan.Edit(t, (1.0,) * 4, 4) for t in (first, second)]
    turnovers = [
        Turnover(e, Plan("", "", ((name, edit),)), Policy.exact(), 0, 0.0)
        for e, edit in zip((2, 5), edits, strict=True)
    ]
    life = life_of(name, size, turnovers)
    assert [g.founders for g in life] == [(0, 1, 2, 3), (0, 1, 0, 3), (0, 1, 1, 1)]
    assert life[-1].born == (0, 0, 5, 5)
    assert [(g.alive, g.originals, g.copied) for g in life] == [(4, 4, 0), (3, 3, 1), (2, 2, 2)]
    drawn = lineage(life)
    assert drawn.stays.count("M") == 5
    assert drawn.copies.count("M") == 3
    assert drawn.ends.count("M") == 1 + 2
    assert drawn.dots.count("M") == 3 * size
    assert run_view({}, turnovers, None).lives == ()


def test_chart_lines_break_where_a_value_is_missing_and_names_keep_apart():
    rows = {"a": [1.0, None, 3.0], "b": [1.0, 2.0, 3.0], "none": [None] * 3}
    found = chart("t", [1, 2, 3], rows, [2])
    assert [line.name for line in found.lines] == ["a", "b"]
    assert found.lines[0].path.count("M") == 2
    assert found.lines[1].path.count("M") == 1
    one, other = (line.label for line in found.lines)
    assert abs(one - other) >= 12
    assert found.lines[0].dashes != found.lines[1].dashes


def test_notebook_tables_are_escaped(net):
    (first, *_), plan = net.groups.values(), Plan.random(net, turnover=0.4)
    reach = fxplastic.coverage(net.named_parameters(), net.groups)
    for value in (first, plan, reach):
        table = Page(value._repr_html_())
        assert table.wrong == []
        assert table.of("script") == []
        assert len(table.of("tr")) > 1
    assert "&lt;script&gt;" in plan._repr_html_() + first._repr_html_()


def test_dot_text_quotes_names(net):
    text = fxplastic.group_dot(net)
    assert text.count("{") == text.count("}")
    assert '"<script>.0.weight"' in text
    assert text.count("[shape=box, label=") == len(net.groups)
    assert quoted('a"b\\c\n') == '"a\\"b\\\\c\\n"'
