"""Open reports in headless Chromium: load time, console, keyboard, screenshots; docs/look.md.

Chromium is driven through its DevTools protocol. It must be on the machine (CHROMIUM names it);
pictures go to runs/look.
"""

import argparse
import asyncio
import base64
import json
import os
import platform
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from tornado.websocket import websocket_connect

import fxplastic
from tools.browser import Page, browser, version

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("resnet50", "vit_base_patch16_224", "densenet201")
LIMIT = 2.0  # seconds until the load event
TIMES = 3
STILL = {"name": "prefers-reduced-motion", "value": "reduce"}
SHOTS = {  # width, height, dark, grey
    "light": (1280, 900, False, False),
    "dark": (1280, 900, True, False),
    "small": (360, 740, False, False),
    "grey": (1280, 900, False, True),
}


@dataclass(frozen=True)
class Seen:
    """What opening one report showed."""

    name: str
    nodes: int
    groups: int
    size: int
    made: float
    loads: tuple[float, ...]
    paints: tuple[float, ...]
    messages: tuple[str, ...]
    stops: int


async def timed(page: Page, url: str) -> tuple[float, float]:
    """Seconds from the navigation's start to the load event, and to the first paint."""
    await page.open(url)
    load = "performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"
    paint = "(performance.getEntriesByName('first-paint')[0] || {startTime: 0}).startTime / 1000"
    for _ in range(100):
        found = await page.value(f"[{load}, {paint}]")
        if all(found):
            return float(found[0]), float(found[1])
        await asyncio.sleep(0.05)
    raise RuntimeError(f"{url} was not painted in 5 s")


WHERE = """(() => { const e = document.activeElement;
  const text = (e.textContent || '').trim().slice(0, 40);
  return [e.tagName, e.id, e.className, text].join('|'); })()"""
PICKED = "!document.getElementById('panel').hidden"


def hold(found: object, what: str) -> None:
    if not found:
        raise SystemExit(f"the keyboard walk failed: {what}")


async def walk(page: Page) -> int:
    """Use the page with the keyboard alone; the number of different places that Tab reached."""
    seen = []
    for _ in range(24):
        await page.press("Tab")
        seen.append(await page.value(WHERE))
    hold("Skip to the network" in seen[0], f"Tab goes first to {seen[0]}, not to a skip link")
    hold(len(set(seen)) > 12, f"Tab reaches only {sorted(set(seen))}")
    await page.value("document.querySelector('#rows [tabindex=\"0\"]').focus()")
    for key in ("ArrowDown", "j", "ArrowDown", "k", "ArrowUp", "j"):
        before = await page.value(WHERE)
        await page.press(key)
        hold(before != await page.value(WHERE), f"{key} does not move the focus from {before}")
    chip = "document.activeElement.querySelector && document.activeElement.querySelector('a.chip')"
    for _ in range(300):
        await page.press("ArrowRight")  # opens a block, or goes on to a chip
        await page.press("ArrowDown")
        if await page.value(f"!!({chip})"):
            break
    hold(await page.value(f"!!({chip})"), "no row with a group is reached by arrows")
    await page.press("Enter")
    hold(await page.value(PICKED), "Enter picks no group")
    hold(await page.value("document.querySelectorAll('li.row.on').length") > 1, "no row is marked")
    await page.press("Escape")
    hold(not await page.value(PICKED), "Escape does not let the group go")
    await page.value("document.querySelectorAll('#table .sort')[2].focus()")
    await page.press("Enter")
    order = await page.value(
        "[...document.querySelectorAll('#table tbody tr')].map(r => +r.cells[2].textContent)"
    )
    hold(order == sorted(order), "Enter on the heading does not sort the table by size")
    return len(set(seen))


async def shots(page: Page, url: str, name: str, folder: Path) -> None:
    for kind, (width, height, dark, grey) in SHOTS.items():
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await page.call("Emulation.setEmulatedMedia", features=[scheme, STILL])
        await page.call(
            "Emulation.setEmulatedVisionDeficiency", type="achromatopsia" if grey else "none"
        )
        await page.open(url)
        wide = await page.value("document.documentElement.scrollWidth")
        hold(wide <= width, f"{name} is {wide} px wide on a screen of {width}")
        for part, scene in SCENES.items():
            if not await page.value(scene):
                continue
            await asyncio.sleep(0.6)
            shot = await page.call("Page.captureScreenshot", format="png")
            (folder / f"{name}-{kind}-{part}.png").write_bytes(base64.b64decode(shot["data"]))


SCENES = {
    "top": "true",
    "picked": "(() => { const c = document.querySelector('#rows a.chip, #table a.chip');"
    " if (c) { c.click(); document.getElementById('graph').scrollIntoView(); } return !!c; })()",
    "groups": "(() => { document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}));"
    " document.getElementById('groups').scrollIntoView(); return true; })()",
    "frozen": "(() => { const d = document.querySelector('details.reason'); if (d) d.open = true;"
    " document.getElementById('frozen').scrollIntoView(); return !!d; })()",
    "run": "(() => { const r = document.getElementById('run'); if (r) { r.scrollIntoView();"
    " } return !!r; })()",
    "open": "(async () => { document.getElementById('open-all').click();"
    " const r = document.querySelectorAll('li.row');"
    " const wait = () => new Promise(f => setTimeout(f, 300));"
    " for (let i = 0; i < 2; i++) { await wait(); r[r.length >> 1].scrollIntoView(); }"
    " return true; })()",
    "life": "(() => { const d = document.querySelector('details.life');"
    " if (d) { d.open = true; d.scrollIntoView(); } return !!d; })()",
}


async def look(url: str, name: str, port: int, folder: Path) -> dict[str, Any]:
    address = f"http://127.0.0.1:{port}/json/new?about:blank"
    request = urllib.request.Request(address, method="PUT")
    with urllib.request.urlopen(request) as answer:
        target = json.load(answer)
    socket = await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=1 << 28)
    page = Page(socket)
    for domain in ("Page", "Runtime", "Log"):
        await page.call(f"{domain}.enable")
    await page.call("Page.bringToFront")
    await page.call(
        "Emulation.setDeviceMetricsOverride",
        width=1280, height=900, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip
    times = [await timed(page, url) for _ in range(TIMES)]
    stops = await walk(page)
    await shots(page, url, name, folder)
    socket.close()
    loads, paints = zip(*times, strict=True)
    return {"loads": loads, "paints": paints, "messages": tuple(page.messages), "stops": stops}


def make(name: str, folder: Path) -> tuple[Path, int, int, float]:
    """The report of one model with a plan and random scores."""
    model = timm.create_model(name).eval()
    plastic = fxplastic.plasticize(model, torch.randn(2, *model.default_cfg["input_size"]))
    scores = fxplastic.GradientScores(plastic, "random")
    plan = fxplastic.plan_turnover(plastic, scores, ratio=0.3)
    start = time.perf_counter()
    path = fxplastic.report(plastic, plan=plan, scores=scores, title=name).save(
        folder / f"{name}.html"
    )
    made = time.perf_counter() - start
    return path, len(plastic.traced.graphs[False].nodes), len(plastic.groups), made


HEAD = (
    *("model", "nodes", "groups", "size", "made in", "load, best", "load, worst"),
    *("first paint, best", "first paint, worst", "console errors and warnings"),
)


def table(seen: list[Seen]) -> str:
    lines = [
        "# Reports in a browser",
        "",
        "Reports with a plan and random scores, opened from a file in headless Chromium by",
        f"`make look`. Seconds from the start of the navigation, of {TIMES} openings. Every report",
        "was then used with the keyboard alone: Tab starts at a skip link and moves on, arrows and",
        "`j` `k` move from row to row, Enter picks a group and Escape lets it go, Enter sorts the",
        "table. On a screen of 360 px no page is wider than the screen.",
        "",
        f"| {' | '.join(HEAD)} |",
        "|" + " --- |" * len(HEAD),
    ]
    for one in seen:
        cells = [
            one.name, f"{one.nodes:,}", str(one.groups), f"{one.size / 1e6:.2f} MB",
            f"{one.made:.1f} s", f"{min(one.loads):.2f} s", f"{max(one.loads):.2f} s",
            f"{min(one.paints):.2f} s", f"{max(one.paints):.2f} s", str(len(one.messages)),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    versions = f"{version()}, torch {torch.__version__}, timm {timm.__version__}"
    cpu = f"{platform.machine()}, {os.cpu_count()} cores"
    return "\n".join([*lines, "", f"{versions}, Python {platform.python_version()}; {cpu}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="reports to look at instead")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "look")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.files:
        made = [(path.stem, (path, 0, 0, 0.0)) for path in options.files]
    else:
        made = [(name, make(name, options.out)) for name in MODELS]
    seen = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process, port = browser(home)
        try:
            for name, (path, nodes, groups, seconds) in made:
                url = path.resolve().as_uri()
                found = asyncio.run(look(url, name, port, options.out))
                seen.append(Seen(name, nodes, groups, path.stat().st_size, seconds, **found))
                print(seen[-1], flush=True)
        finally:
            process.terminate()
            process.wait(30)
    if not options.files:
        (ROOT / "docs" / "look.md").write_text(table(seen), encoding="utf-8")
    bad = [f"{s.name}: {s.messages} {s.loads}" for s in seen if s.messages or max(s.loads) > LIMIT]
    if bad:
        raise SystemExit("\n".join(bad))


if __name__ == "__main__":
    main()
