"""The report: one page that loads nothing, says all it should, and escapes what users name."""

import math
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import fxplastic
from fxplastic import Plan, group_dot, plasticize, report
from fxplastic.training.config import Config
from fxplastic.training.loop import train

VOID = set("area base br col embed hr img input link meta source track wbr".split())
NO_ICON = "data:,"  # keeps a browser from asking for an icon
EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The elements of a page; an end tag that fits no start tag is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [a[name] for _, a in self.elements if a.get(name) is not None]


def network() -> nn.Module:
    """A residual block, with a module whose name is an attack."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 12), nn.LayerNorm(12))
    model.add_module(EVIL.replace(".", "_"), nn.Linear(12, 2))
    return model


@cache
def page() -> tuple[str, Page]:
    plastic = plasticize(network(), torch.zeros(2, 3))
    scores = {"0.weight:0": torch.arange(8.0)}
    plan = fxplastic.plan_widths(plastic, 0.5, scores=scores)
    html = report(plastic, plan=plan, scores=scores, title=f"net {EVIL}").html
    return html, Page(html)


def test_the_page_is_well_formed_and_ids_are_given_once():
    _, found = page()
    assert found.open == []
    ids = found.values("id")
    assert len(ids) == len(set(ids)) > 0
    for name in ("aria-labelledby", "aria-describedby", "aria-controls", "for"):
        for value in found.values(name):
            assert set(value.split()) <= set(ids), name
    assert {h[1:] for h in found.values("href") if h != NO_ICON} <= set(ids)


def test_the_page_loads_nothing():
    html, found = page()
    assert found.values("src") == []
    assert all(href.startswith("#") or href == NO_ICON for href in found.values("href"))
    assert not [tag for tag, _ in found.elements if tag in ("iframe", "object", "base")]
    without = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|url\(", without)


def test_what_users_name_is_text():
    html, found = page()
    assert EVIL not in html
    assert EVIL in "".join(found.text)
    scripts = [tag for tag, _ in found.elements if tag == "script"]
    assert len(scripts) <= 2  # the page's own, and its data


def test_groups_reasons_and_numbers_are_on_the_page():
    _, found = page()
    text = " ".join(" ".join(found.text).split())
    plastic = plasticize(network(), torch.zeros(2, 3))
    for name in plastic.groups:
        assert name in text
    for axis in plastic.frozen:
        assert axis.reason in text
    assert f"{sum(p.numel() for p in plastic.parameters()):,}" in text


def test_every_drawing_has_a_text_alternative():
    _, found = page()
    drawings = [a for tag, a in found.elements if tag == "svg"]
    assert drawings
    for a in drawings:
        hidden = a.get("aria-hidden") == "true"
        assert hidden or a.get("aria-label") or a.get("aria-labelledby")


def test_scores_that_are_not_finite_are_no_numbers_on_the_page():
    plastic = plasticize(network(), torch.zeros(2, 3))
    scores = {"0.weight:0": torch.tensor([math.nan, math.inf, 1.0, 2, 3, 4, 5, 6])}
    html = report(plastic, scores=scores).html
    attributes = [v for _, a in Page(html).elements for v in a.values() if v]
    numbers = [v for v in attributes if re.fullmatch(r"[-\d.eE, ]*(nan|inf)[-\d.eE, ]*", v)]
    assert numbers == []


def test_a_plan_for_another_model_is_refused():
    plastic = plasticize(network(), torch.zeros(2, 3))
    other = plasticize(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.zeros(2, 3))
    with pytest.raises(fxplastic.PlanError):
        report(plastic, plan=Plan.random(other, turnover=0.5))


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


def test_graphviz_text_names_groups_and_escapes_labels():
    plastic = plasticize(network(), torch.zeros(2, 3))
    text = group_dot(plastic)
    assert text.startswith(("graph", "digraph", "strict"))
    assert text.count("{") == text.count("}")
    assert "0.weight:0" in text
    for label in re.findall(r'"((?:[^"\\]|\\.)*)"', text):
        assert "\n" not in label


def test_the_pass_does_not_load_what_only_reports_need():
    lazy = ("jinja2.environment", "matplotlib", "rich", "typer")
    code = (
        "import sys, torch, timm, torchvision; before = set(sys.modules); import fxplastic; "
        f"print([m for m in {lazy} if m in sys.modules and m not in before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
