"""What the report is made of: lanes, sections, chips, histograms, lives, charts, files of a run."""

import itertools
import re
from pathlib import Path

import pytest
import torch

import fxplastic
from fxplastic import Plan, Policy, Turnover, plasticize
from fxplastic.flow import Flow, Held, Step, Touch
from fxplastic.reporting.charts import GAP, chart
from fxplastic.reporting.dot import quoted
from fxplastic.reporting.graph_view import MOST_CHIPS, graph_view
from fxplastic.reporting.group_view import panels
from fxplastic.reporting.histogram import histogram
from fxplastic.reporting.lanes import HEIGHT, MOST, draw_lane, draw_section, lane_count, lay_lanes
from fxplastic.reporting.life import life_of
from fxplastic.reporting.run_view import lineage, run_view
from fxplastic.reporting.sections import Section, nest
from tests.report_page import Net, Page


@pytest.fixture(scope="module")
def net() -> fxplastic.PlasticModule:
    return plasticize(Net().eval(), torch.randn(2, 3, 4, 4))


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


def test_a_row_that_stands_for_a_parameter_names_it():
    one = Step("b_weight", "parameter", "b", "", (4,), (), ("b.weight",), (), ())
    (row,) = graph_view(Flow((one,)), [], []).parts
    assert row.module == "b.weight"


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
    data = panels(net.groups, fxplastic.flow(net))
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
    assert abs(one - other) >= GAP
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


CSS = Path(fxplastic.__file__).parent / "reporting" / "templates" / "report.css"


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("text", ["fg", "quiet", "link", *(f"c{i}" for i in range(8))])
def test_colours_stand_out_from_what_is_behind_them(scheme: int, text: str):
    blocks = re.findall(r":root \{(.*?)\}", CSS.read_text(), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[scheme]))
    # Swatches and lines are graphics (3 to 1); all else is text (4.5 to 1).
    least, behind = (3.0, ["bg"]) if text[0] == "c" else (4.5, ["bg", "raised", "pick"])
    for name in behind:
        low, high = sorted(luminance(colours[key]) for key in (text, name))
        assert (high + 0.05) / (low + 0.05) >= least, (text, name)
