"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const rows = find("rows"), panel = find("panel"), tip = find("tip"), status = find("status");
  const data = JSON.parse(find("panels").textContent);
  const items = [...rows.querySelectorAll("li.row, summary")];
  const place = new Map(items.map((item, i) => [item, i]));
  const rowsOf = data.groups.map(() => []);
  for (const item of items) {
    for (const g of (item.dataset.g || "").split(" ")) if (g) rowsOf[g].push(item);
  }
  let picked = null, back = null;

  const make = (tag, text, parent, attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (parent) parent.append(element);
    return element;
  };
  const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

  // ---------------------------------------------------------------- picking a group
  const list = (title, lines) => {
    make("b", title, panel);
    const ul = make("ul", "", panel);
    for (const line of lines) make("li", line, ul);
  };
  const fill = (g) => {
    const group = data.groups[g];
    panel.replaceChildren();
    const close = make("button", "Close", panel, { type: "button", class: "close" });
    close.addEventListener("click", clear);
    make("h3", `${group.letter}: ${group.name}`, panel);
    const blocks = group.blocks > 1 ? ` in ${count(group.blocks, "block")}` : "";
    make("p", `${count(group.size, "neuron")}${blocks}, ${group.exact ? "exact" : "not exact"}; ` +
      `it passes through ${count(rowsOf[g].length, "node")}.`, panel);
    if (group.coupled.length) {
      const p = make("p", "Widths tied to: ", panel);
      for (const c of group.coupled) {
        make("a", data.groups[c].letter, p, { class: "chip", href: `#group-${c}`, "data-pick": c });
      }
    }
    const text = ([p, axis, , slots]) =>
      `${data.parameters[p]}, axis ${axis}` + (slots > 1 ? ` (${slots} positions per neuron)` : "");
    list("Producers", group.sites.filter((s) => !s[2]).map(text));
    list("Consumers", group.sites.filter((s) => s[2]).map(text));
    if (group.sources.length) list("Source lines", group.sources.map((s) => data.sources[s]));
  };
  const marks = (g, on) => {
    for (const item of rowsOf[g]) {
      item.classList.toggle("on", on);
      for (let d = item.closest("details"); d; d = d.parentElement.closest("details")) {
        d.firstElementChild.classList.toggle("on", on);
      }
    }
    find(`group-${g}`).classList.toggle("on", on);
    for (const chip of document.querySelectorAll(`[data-pick="${g}"]`)) {
      if (on) chip.setAttribute("aria-current", "true"); else chip.removeAttribute("aria-current");
    }
  };
  const pick = (g, from) => {
    if (picked !== null) marks(picked, false);
    picked = g;
    if (!panel.contains(from)) back = from;
    fill(g);
    marks(g, true);
    panel.hidden = false;
    status.textContent = `Group ${data.groups[g].letter}, ${data.groups[g].name}, picked: ` +
      `${count(rowsOf[g].length, "node")} marked.`;
  };
  const clear = () => {
    if (picked === null) return;
    marks(picked, false);
    picked = null;
    const inside = panel.contains(document.activeElement);
    panel.hidden = true;
    status.textContent = "No group is picked.";
    if (inside && back) back.focus();
  };
  document.addEventListener("click", (event) => {
    const chip = event.target.closest("[data-pick]");
    if (chip) {
      event.preventDefault();
      const inside = panel.contains(chip);
      pick(Number(chip.dataset.pick), chip);
      if (inside) panel.focus();
      else if (!rows.contains(chip)) {
        const first = rowsOf[picked].find((item) => shown(item));
        if (first) first.scrollIntoView({ block: "center" });
      }
    }
    const more = event.target.closest(".more");
    if (more) {
      let last = more;
      for (const g of more.closest(".row").dataset.g.split(" ").slice(Number(more.dataset.skip))) {
        if (more.parentElement.querySelector(`[data-pick="${g}"]`)) continue;
        const group = data.groups[g];
        const chip = make("a", group.letter, null, { class: "chip", href: `#group-${g}`,
          "data-pick": g, "aria-label": `group ${group.letter}, ${group.name}` });
        last.after(" ", chip);
        last = chip;
      }
      const next = last === more ? more.previousElementSibling : more.nextElementSibling;
      more.remove();
      next.focus();
    }
  });

  // ---------------------------------------------------------------- from row to row
  const shown = (item) => {
    const from = item.tagName === "SUMMARY" ? item.parentElement.parentElement : item;
    return !from.closest("details:not([open])");
  };
  const go = (from, step) => {
    for (let i = from + step; i >= 0 && i < items.length; i += step) {
      if (shown(items[i])) return focus(items[i]);
    }
  };
  const focus = (item) => {
    if (item.tagName !== "SUMMARY") item.tabIndex = -1;
    item.focus();
    item.scrollIntoView({ block: "nearest" });
  };
  const across = (item, step) => {
    const stops = [item, ...item.querySelectorAll("a, button")];
    const next = stops[stops.indexOf(document.activeElement) + step];
    if (next) next.focus();
  };
  rows.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const item = event.target.closest("li.row, summary");
    if (!item) return;
    const here = place.get(item), summary = item.tagName === "SUMMARY";
    const actions = {
      ArrowDown: () => go(here, 1), j: () => go(here, 1),
      ArrowUp: () => go(here, -1), k: () => go(here, -1),
      Home: () => go(-1, 1), End: () => go(items.length, -1),
      ArrowRight: () => { if (summary) item.parentElement.open = true; else across(item, 1); },
      ArrowLeft: () => {
        if (!summary && event.target !== item) return across(item, -1);
        const around = summary ? (item.parentElement.open ? item.parentElement
          : item.parentElement.parentElement.closest("details")) : item.closest("details");
        if (!around) return;
        if (!summary || !item.parentElement.open) focus(around.firstElementChild);
        else around.open = false;
      },
      Enter: () => {
        const chip = item.querySelector("[data-pick]");
        if (chip) pick(Number(chip.dataset.pick), item);
      },
    };
    const action = actions[event.key];
    if (!action || (event.key === "Enter" && event.target !== item) ||
        (event.key === "Enter" && summary)) return;
    event.preventDefault();
    action();
  });
  const first = items.find((item) => item.tagName !== "SUMMARY");
  if (first) first.tabIndex = 0;
  const openAll = (open) => { for (const d of rows.querySelectorAll("details")) d.open = open; };
  find("open-all").addEventListener("click", () => openAll(true));
  find("close-all").addEventListener("click", () => openAll(false));
  addEventListener("beforeprint", () => {
    for (const d of document.querySelectorAll("details")) d.open = true;
  });

  // ---------------------------------------------------------------- why an axis is frozen
  const explain = (event) => {
    const lock = event.target.closest(".lock");
    if (!lock) return;
    tip.textContent = find(lock.getAttribute("aria-describedby")).textContent;
    tip.hidden = false;
    const box = lock.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - own.width - 8);
    const below = box.bottom + 4 + own.height < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? box.bottom + 4 : box.top - own.height - 4}px`;
  };
  const hide = () => { tip.hidden = true; };
  for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, explain);
  for (const kind of ["mouseout", "focusout"]) {
    document.addEventListener(kind, (event) => { if (event.target.closest(".lock")) hide(); });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (!tip.hidden) hide(); else clear();
  });
  document.addEventListener("click", (event) => {
    const lock = event.target.closest(".lock");
    if (!lock) return;
    const reason = find(lock.getAttribute("aria-describedby")).closest("details");
    reason.open = true;
    event.preventDefault();
    reason.firstElementChild.focus();
  });

  // ---------------------------------------------------------------- the table
  const table = find("table");
  if (!table) return;
  const body = table.tBodies[0], lines = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const value = (line, column) => {
    const cell = line.cells[column], text = cell.dataset.v ?? cell.textContent.trim();
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, "en", { numeric: true });
  };
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = lines.map((line) => [value(line, column), line]);
      keyed.sort(([a], [b]) => (down ? -1 : 1) * compare(a, b));
      body.append(...keyed.map(([, line]) => line));
    });
  });
  find("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let left = 0;
    for (const line of lines) {
      line.hidden = !line.cells[1].textContent.toLowerCase().includes(wanted);
      if (!line.hidden) left += 1;
    }
    find("shown").textContent = `${left} of ${lines.length}`;
  });
})();
