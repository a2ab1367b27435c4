"use strict";
// Draws the charts and runs the list of rows. Text from data only ever becomes textContent; nothing is loaded or stored.
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const rows = data.rows;
  const count = rows.row.length;
  const SVG = "http://www.w3.org/2000/svg";

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function shape(parent, tag, attributes = {}, text = null) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== null) made.textContent = text;
    parent.append(made);
    return made;
  }

  const whole = new Intl.NumberFormat("en-US");
  function number(value, digits = 4) {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return whole.format(value + 0).replace("-", "−");
    const size = Math.abs(value);
    const text = size >= 1e6 || size < 1e-4 ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
    return text.replace("-", "−");
  }
  const listed = (n, noun) => `${whole.format(n)} ${noun}${n === 1 ? "" : "s"}`;

  // ---- theme -------------------------------------------------------------------------------------------------------
  function startTheme() {
    const root = document.documentElement;
    const button = $("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; label(); });
    system.addEventListener("change", label);
    label();
  }

  // ---- charts ------------------------------------------------------------------------------------------------------
  function ticks(low, high, most) {
    const raw = (high - low) / Math.max(1, most);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw * 0.999);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) found.push(Number((at * step).toPrecision(12)));
    return found;
  }

  function logTicks(low, high, most) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
      for (const factor of [1, 2, 5]) found.push(Number((factor * 10 ** power).toPrecision(3)));
    const inside = found.filter((tick) => tick >= low && tick <= high);
    const tens = inside.filter((tick) => Number.isInteger(Math.log10(tick)));
    return inside.length <= most ? inside : tens.length >= 2 ? tens : inside.slice(0, most);
  }

  function scale(low, high, from, to, isLog = false) {
    const [a, b] = isLog ? [Math.log(low), Math.log(high)] : [low, high];
    const of = (value) => from + (((isLog ? Math.log(value) : value) - a) / (b - a || 1)) * (to - from);
    of.ticks = (most) => (isLog ? logTicks(low, high, most) : ticks(low, high, most));
    return of;
  }

  function canvas(box, height, title) {
    box.replaceChildren();
    const width = Math.max(120, box.clientWidth);
    const svg = shape(box, "svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
    shape(svg, "title", {}, title);
    return { svg, width, height };
  }

  const drawings = new Map();
  const watcher = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      const drawn = drawings.get(target);
      if (drawn && Math.abs(drawn.width - contentRect.width) > 1) draw(target, drawn.make);
    }
  });
  function draw(box, make) {
    make(box);
    drawings.set(box, { make, width: box.getBoundingClientRect().width });
    watcher.observe(box);
  }

  function bars(counts, x, edges, base, size, sign) {
    let path = "";
    counts.forEach((n, at) => {
      if (!n) return;
      const left = x(edges[at]) + 0.5;
      const tall = Math.max(1, n * size);
      path += `M${left.toFixed(1)} ${base}h${Math.max(1, x(edges[at + 1]) - left - 0.5).toFixed(1)}v${(-sign * tall).toFixed(1)}H${left.toFixed(1)}z`;
    });
    return path;
  }

  // Kept rows above the line, rejected ones below; both sides share one scale.
  function histogram(box, score, kept, rejected, { height, isLarge, title }) {
    const { svg, width } = canvas(box, height, title);
    const edges = score.edges;
    const [left, top, bottom] = isLarge ? [52, 10, 44] : [0, 2, 18];
    const x = scale(edges[0], edges[edges.length - 1], left, width - (isLarge ? 8 : 0), score.log);
    const most = Math.max(...kept);
    const least = Math.max(...rejected);
    const size = (height - top - bottom) / (most + least || 1);
    const base = Number((top + most * size).toFixed(1));
    if (isLarge) {
      const steps = ticks(0, most + least || 1, 5).slice(1, 2)[0] || 1;
      for (let tick = Math.ceil(-least / steps) * steps; tick <= most; tick += steps) {
        const y = base - tick * size;
        shape(svg, "line", { class: "grid-line", x1: left, x2: width - 8, y1: y, y2: y });
        shape(svg, "text", { x: left - 8, y: y + 4, "text-anchor": "end" }, whole.format(Math.abs(tick)));
      }
      for (const tick of x.ticks(Math.floor(width / 90)))
        shape(svg, "text", { x: x(tick), y: height - 24, "text-anchor": "middle" }, number(tick));
      shape(svg, "text", { x: width - 8, y: height - 4, "text-anchor": "end" }, `${score.field}${score.log ? ", logarithmic" : ""}`);
      shape(svg, "text", { x: left, y: height - 4 }, "rows per bin");
    } else {
      shape(svg, "text", { x: 0, y: height - 3 }, number(score.whole ? Math.ceil(edges[0]) : edges[0], 3));
      shape(svg, "text", { x: width, y: height - 3, "text-anchor": "end" }, number(score.whole ? Math.floor(edges[edges.length - 1]) : edges[edges.length - 1], 3));
    }
    shape(svg, "path", { class: "bars kept", d: bars(kept, x, edges, base, size, 1) });
    shape(svg, "path", { class: "bars rejected", d: bars(rejected, x, edges, base, size, -1) });
    shape(svg, "line", { class: "base", x1: left, x2: width - (isLarge ? 8 : 0), y1: base, y2: base });
    for (const cut of score.cuts)
      if (cut >= edges[0] && cut <= edges[edges.length - 1])
        shape(svg, "line", { class: "cut", x1: x(cut), x2: x(cut), y1: 0, y2: height - bottom + 4 });
    if (!isLarge) return;
    const readout = element("p", { class: "readout" });
    box.append(readout);
    svg.addEventListener("pointermove", (event) => {
      const here = event.offsetX;
      const bin = edges.findIndex((edge, at) => at + 1 < edges.length && here >= x(edge) && here < x(edges[at + 1]));
      const ends = score.whole ? [Math.ceil(edges[bin]), Math.floor(edges[bin + 1])] : [edges[bin], edges[bin + 1]];
      readout.textContent = bin < 0 ? "" : `${[...new Set(ends)].map((end) => number(end)).join(" to ")}: ${whole.format(kept[bin])} kept, ${whole.format(rejected[bin])} rejected`;
    });
    svg.addEventListener("pointerleave", () => { readout.textContent = ""; });
  }

  const total = (lists) => lists.reduce((sums, list) => sums.map((sum, at) => sum + list[at]));
  const sum = (list) => list.reduce((all, one) => all + one, 0);

  function startScores() {
    const select = $("score");
    if (!select) return;
    data.histograms.forEach((score, at) => select.append(element("option", { value: at }, score.field)));
    const show = () => {
      const score = data.histograms[Number(select.value)];
      $("score-what").textContent = score.what;
      const [kept, rejected] = [total(score.kept), total(score.rejected)];
      const title = `${score.field}: ${listed(sum(kept), "row")} kept, ${whole.format(sum(rejected))} rejected`;
      draw($("histogram-all"), (box) => histogram(box, score, kept, rejected, { height: 320, isLarge: true, title }));
      const grid = $("histogram-sources");
      grid.replaceChildren();
      if (data.sources.length > 1)
        data.sources.forEach((name, at) => {
          const box = element("div");
          const heading = element("h4", { title: name });
          heading.append(element("bdi", {}, name));
          grid.append(element("div", {}, heading, box));
          const told = `${name}: ${listed(sum(score.kept[at]), "row")} kept, ${whole.format(sum(score.rejected[at]))} rejected`;
          draw(box, (into) => histogram(into, score, score.kept[at], score.rejected[at], { height: 108, isLarge: false, title: told }));
        });
      const without = total(score.unscored);
      const notes = [without[0] + without[1] ? `${listed(without[0] + without[1], "row")} without this score (${whole.format(without[0])} kept, ${whole.format(without[1])} rejected).` : "Every row has this score."];
      if (score.beyond) notes.push(`${listed(score.beyond, "row")} beyond the axis, counted in its first and last bins.`);
      if (data.sources.length > 1) notes.push("Each source's chart is scaled to its own tallest bar.");
      $("score-note").textContent = notes.join(" ");
      showTable(score);
    };
    select.addEventListener("change", show);
    show();
  }

  function showTable(score) {
    const cells = (values) => values.map((value) => element("td", { class: "n" }, number(value)));
    const heading = (text, isNumber) => element("th", { scope: "col", class: isNumber ? "n" : "" }, text);
    const head = element("tr", {}, heading("source"), heading("decision"), ...["rows", "lower quartile", "median", "upper quartile"].map((name) => heading(name, true)));
    const body = element("tbody");
    score.table.forEach((sides, at) => sides.forEach((side, which) => {
      const name = element("th", { scope: "row" });
      name.append(element("bdi", {}, at ? data.sources[at - 1] : "all sources"));
      body.append(element("tr", {}, name, element("td", {}, which ? "rejected" : "kept"), ...cells(side)));
    }));
    $("score-table").replaceChildren(element("caption", { class: "unseen" }, `${score.field}: quartiles`), element("thead", {}, head), body);
  }

  function axes(svg, x, y, { left, right, top, bottom, width, height, across, up }) {
    for (const tick of y.ticks(6)) {
      shape(svg, "line", { class: "grid-line", x1: left, x2: width - right, y1: y(tick), y2: y(tick) });
      shape(svg, "text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, number(tick));
    }
    for (const tick of x.ticks(Math.floor(width / 80)))
      shape(svg, "text", { x: x(tick), y: height - bottom + 18, "text-anchor": "middle" }, number(tick));
    shape(svg, "text", { x: width - right, y: height - 4, "text-anchor": "end" }, across);
    shape(svg, "text", { x: 0, y: top - 14 }, up);
  }

  function scatter(box, picture) {
    const { svg, width, height } = canvas(box, 380, `${picture.title}: ${picture.x.field} across, ${picture.y.field} up`);
    const frame = { left: 48, right: 16, top: 32, bottom: 44, width, height, across: picture.x.label, up: picture.y.label };
    const x = scale(picture.x.low, picture.x.high, frame.left, width - frame.right);
    const y = scale(picture.y.low, picture.y.high, height - frame.bottom, frame.top);
    axes(svg, x, y, frame);
    const points = [];
    for (const side of ["rejected", "kept"]) {
      let path = "";
      const [across, up, names] = picture[side];
      across.forEach((value, at) => {
        if (value < picture.x.low || value > picture.x.high || up[at] < picture.y.low || up[at] > picture.y.high) return;
        const [px, py] = [x(value), y(up[at])];
        path += `M${px.toFixed(1)} ${py.toFixed(1)}h0`;
        points.push([px, py, names[at], side, value, up[at]]);
      });
      shape(svg, "path", { class: `cloud ${side}`, d: path });
    }
    const legend = element("ul", { class: "legend" }, ...["kept", "rejected"].map((side) => element("li", {}, element("i", { class: `key ${side}` }), side)));
    const readout = element("p", { class: "readout" }, "Point at a dot for its row.");
    box.append(legend, readout);
    const ring = shape(svg, "circle", { class: "ring", r: 0 });
    let nearest = null;
    svg.addEventListener("pointermove", (event) => {
      let best = 144;
      nearest = null;
      for (const point of points) {
        const far = (point[0] - event.offsetX) ** 2 + (point[1] - event.offsetY) ** 2;
        if (far < best) [best, nearest] = [far, point];
      }
      ring.setAttribute("r", nearest ? 5 : 0);
      if (nearest) { ring.setAttribute("cx", nearest[0]); ring.setAttribute("cy", nearest[1]); }
      readout.textContent = nearest ? `row ${nearest[2]}, ${nearest[3]}: ${number(nearest[4])} across, ${number(nearest[5])} up` : "";
    });
    svg.addEventListener("click", () => { if (nearest) browser.open(nearest[2]); });
  }

  function lineChart(box, chart) {
    const { svg, width, height } = canvas(box, 320, chart.title);
    const every = chart.lines.flatMap((line) => [...line.points, ...(line.seeds || []).flatMap((values, at) => values.map((value) => [line.points[at][0], value]))]);
    const [xs, ys] = [every.map((point) => point[0]), every.map((point) => point[1])];
    const [low, high] = [Math.min(...ys), Math.max(...ys)];
    const space = 0.05 * (high - low) || 1;
    const frame = { left: 48, right: 16, top: 32, bottom: 44, width, height, across: chart.x, up: chart.y };
    const x = scale(Math.min(...xs), Math.max(...xs), frame.left, width - frame.right);
    const y = scale(low - space, high + space, height - frame.bottom, frame.top);
    axes(svg, x, y, frame);
    const legend = element("ul", { class: "legend" });
    chart.lines.forEach((line, at) => {
      const tone = `l${at % 6}`;
      const dash = at < 6 ? "none" : "5 3";
      shape(svg, "path", { class: `curve ${tone}`, "stroke-dasharray": dash, d: line.points.map((point, place) => `${place ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("") });
      (line.seeds || []).forEach((values, place) => values.forEach((value) => shape(svg, "circle", { class: `dots ${tone}`, r: 2.5, cx: x(line.points[place][0]), cy: y(value) })));
      legend.append(element("li", {}, element("i", { class: `key ${tone}` }), element("bdi", {}, line.name)));
    });
    box.append(legend);
  }

  // ---- the list of rows --------------------------------------------------------------------------------------------
  const text = (cell) => (typeof cell === "string" ? cell : cell[0]);
  const prompt = (at) => rows.prompts[rows.prompt[at]];
  const isKept = (at) => rows.rejected_by[at] < 0;
  const source = (at) => rows.sources[rows.source[at]];

  const browser = {
    shown: [], current: 0, sort: null, descending: false, height: 56, folded: new Array(count),
    start() {
      const fill = (select, entries) => select.append(...entries.map(([value, name]) => element("option", { value }, name)));
      fill($("by-source"), [["", "any"], ...rows.sources.map((name, at) => [at, name])]);
      fill($("by-rule"), [["", "any"]]);
      const group = (label, names, kind) => {
        const made = element("optgroup", { label });
        fill(made, names.map((name, at) => [`${kind}${at}`, name]));
        if (names.length) $("by-rule").append(made);
      };
      group("rejected by", rows.steps, "s");
      group("outside the bound", rows.bounds, "b");
      fill($("by-score"), Object.keys(rows.numbers).map((name) => [name, name]));
      if (rows.score) $("by-score").value = rows.score;
      $("filters").addEventListener("submit", (event) => event.preventDefault());
      $("filters").addEventListener("change", () => this.refresh());
      $("filters").addEventListener("reset", () => setTimeout(() => { if (rows.score) $("by-score").value = rows.score; this.sort = null; this.refresh(); }));
      let waiting = 0;
      $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => this.refresh(), 90); });
      for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => this.turn(button.dataset.sort));
      $("viewport").addEventListener("scroll", () => requestAnimationFrame(() => this.render()), { passive: true });
      $("grid").addEventListener("keydown", (event) => this.key(event));
      $("lines").addEventListener("click", (event) => {
        const line = event.target.closest("[data-at]");
        if (!line) return;
        this.choose(Number(line.dataset.at));
        this.read();
      });
      $("detail").addEventListener("keydown", (event) => {
        if (event.key === "Escape" && !$("detail").matches(":modal")) $("grid").focus();
      });
      $("detail").addEventListener("close", () => $("grid").focus());
      const wide = matchMedia("(min-width: 901px)");
      const layout = () => {
        this.isWide = wide.matches;
        if ($("detail").matches(":modal")) $("detail").close();
        $("detail").toggleAttribute("open", this.isWide);
        this.measure();
      };
      wide.addEventListener("change", layout);
      matchMedia("(max-width: 700px)").addEventListener("change", layout);
      layout();
      this.refresh();
    },
    measure() {
      this.height = matchMedia("(max-width: 700px)").matches ? 104 : 56;
      this.render();
    },
    fold(at) {
      if (this.folded[at] === undefined) this.folded[at] = `${text(prompt(at))}\n${text(rows.completion[at])}\n${rows.id[at] || ""}`.toLowerCase();
      return this.folded[at];
    },
    refresh() {
      const [from, decision, rule] = [$("by-source").value, $("by-decision").value, $("by-rule").value];
      const wanted = $("search").value.toLowerCase();
      const place = Number(rule.slice(1));
      const passes = (at) =>
        (from === "" || rows.source[at] === Number(from)) &&
        (decision === "" || isKept(at) === (decision === "kept")) &&
        (rule === "" || (rule[0] === "s" ? rows.rejected_by[at] === place : rows.fails[at].includes(place))) &&
        (wanted === "" || this.fold(at).includes(wanted));
      const former = this.shown[this.current];
      this.shown = [];
      for (let at = 0; at < count; at += 1) if (passes(at)) this.shown.push(at);
      this.order();
      this.current = Math.max(0, this.shown.indexOf(former));
      $("count").textContent = this.shown.length === count ? `${listed(count, "row")}.` : `${whole.format(this.shown.length)} of ${listed(count, "row")}.`;
      $("grid").setAttribute("aria-rowcount", this.shown.length + 1);
      if (!this.shown.includes(former)) $("viewport").scrollTop = 0;
      this.rendered = null;
      this.render();
      this.detail();
    },
    order() {
      for (const button of document.querySelectorAll("[data-sort]")) {
        if (button.dataset.sort === this.sort) button.parentElement.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
        else button.parentElement.removeAttribute("aria-sort");
      }
      const values = {
        row: (at) => rows.row[at], source, decision: (at) => (isKept(at) ? -1 : rows.rejected_by[at]),
        score: (at) => this.scores()[at],
        // Nearest to the cut first: margins of several rules have several units, but 0 is the cut in all of them.
        margin: (at) => (rows.margin[at] === null ? null : Math.abs(rows.margin[at])),
      }[this.sort];
      if (!values) return;
      const way = this.descending ? -1 : 1;
      const keys = new Map(this.shown.map((at) => [at, values(at)]));
      const is = (value) => value === null || value === undefined;
      this.shown.sort((one, other) => {
        const [a, b] = [keys.get(one), keys.get(other)];
        if (is(a) || is(b)) return is(a) - is(b) || one - other;
        return (a < b ? -way : a > b ? way : 0) || one - other;
      });
    },
    scores() { return rows.numbers[$("by-score").value] || []; },
    turn(key) {
      if (this.sort !== key) [this.sort, this.descending] = [key, false];
      else if (!this.descending) this.descending = true;
      else this.sort = null;
      $("viewport").scrollTop = 0;
      this.refresh();
    },
    render() {
      const view = $("viewport");
      const first = Math.max(0, Math.floor(view.scrollTop / this.height) - 4);
      const last = Math.min(this.shown.length, Math.ceil((view.scrollTop + view.clientHeight) / this.height) + 4);
      $("lines").style.height = `${Math.max(1, this.shown.length) * this.height}px`;
      const made = [];
      for (let place = first; place < last; place += 1) made.push(this.line(place));
      if (!this.shown.length) made.push(element("div", { class: "empty" }, "No row is like that. Clear a filter, or search for something shorter."));
      $("lines").replaceChildren(...made);
      if (this.shown.length) $("grid").setAttribute("aria-activedescendant", `line-${this.current}`);
      else $("grid").removeAttribute("aria-activedescendant");
    },
    line(place) {
      const at = this.shown[place];
      const cell = (name, ...children) => element("span", { class: name, role: "gridcell" }, ...children);
      const brief = (value) => element("bdi", { dir: "auto" }, text(value).slice(0, 160).replace(/\s+/g, " "));
      const decision = isKept(at) ? "kept" : "rejected";
      const made = element("div", { class: "line", role: "row", id: `line-${place}`, "aria-rowindex": place + 2, "aria-selected": place === this.current, "data-at": place },
        cell("c-row", String(rows.row[at])), cell("c-text", brief(prompt(at)), brief(rows.completion[at])),
        cell("c-source", element("bdi", {}, source(at))), cell(`c-decision chip ${decision}`, decision),
        cell("c-score", number(this.scores()[at])), cell("c-margin", number(rows.margin[at], 3)));
      made.style.transform = `translateY(${place * this.height}px)`;
      return made;
    },
    choose(place) {
      if (!this.shown.length) return;
      this.current = Math.min(this.shown.length - 1, Math.max(0, place));
      const view = $("viewport");
      const top = this.current * this.height;
      if (top < view.scrollTop) view.scrollTop = top;
      else if (top + this.height > view.scrollTop + view.clientHeight) view.scrollTop = top + this.height - view.clientHeight;
      this.render();
      this.detail();
    },
    key(event) {
      if (event.target !== $("grid") && event.target !== $("viewport")) return;
      const page = Math.max(1, Math.floor($("viewport").clientHeight / this.height) - 1);
      const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -count, End: count };
      if (event.key in moves) this.choose(this.current + moves[event.key]);
      else if (event.key === "Enter") this.read(true);
      else return;
      event.preventDefault();
    },
    read(isByKey = false) {
      if (!this.shown.length) return;
      if (!this.isWide && !$("detail").open) $("detail").showModal();
      if (isByKey || !this.isWide) $("detail-body").focus();
    },
    open(row) {
      const at = rows.row.indexOf(row);
      if (at < 0) return;
      if (!this.shown.includes(at)) { $("filters").reset(); setTimeout(() => this.open(row)); return; }
      this.choose(this.shown.indexOf(at));
      $("examples").scrollIntoView();
      $("grid").focus({ preventScroll: true });
      if (!this.isWide) this.read();
    },
    passage(cell, most) {
      const body = text(cell);
      const box = element("p", { class: "text", dir: "auto" });
      const wanted = $("search").value.toLowerCase();
      const put = (shown) => {
        box.replaceChildren();
        const low = shown.toLowerCase();
        let from = 0;
        // Where lower case is of another length, places in the two texts differ.
        for (let at = wanted && low.length === shown.length ? low.indexOf(wanted) : -1; at >= 0; at = low.indexOf(wanted, from)) {
          box.append(shown.slice(from, at), element("mark", {}, shown.slice(at, at + wanted.length)));
          from = at + wanted.length;
        }
        box.append(shown.slice(from));
      };
      const parts = [box];
      if (body.length > most * 1.25) {
        put(`${body.slice(0, most)} …`);
        const more = element("button", { type: "button" }, "Show all");
        more.addEventListener("click", () => { put(body); more.remove(); box.tabIndex = -1; box.focus(); });
        parts.push(more);
      } else put(body);
      if (typeof cell !== "string") parts.push(element("p", { class: "note" }, `Cut at ${whole.format(rows.cut)} of ${whole.format(cell[1])} characters in this file.`));
      return parts;
    },
    detail() {
      const body = $("detail-body");
      const at = this.shown[this.current];
      if (at === undefined) { body.replaceChildren(element("p", { class: "note" }, "No row is chosen.")); return; }
      const decision = isKept(at) ? "kept" : "rejected";
      const head = element("div", { class: "head" }, element("b", {}, `Row ${rows.row[at]}`), element("span", { class: `chip ${decision}` }, decision), element("bdi", { class: "quiet" }, source(at)));
      if (rows.id[at] !== null) head.append(element("bdi", { class: "quiet" }, rows.id[at]));
      const close = element("button", { type: "button", class: "close" }, "Close");
      close.addEventListener("click", () => $("detail").close());
      const why = element("ul");
      if (!isKept(at)) why.append(element("li", {}, `rejected by step ${rows.rejected_by[at] + 1}: `, element("code", {}, rows.steps[rows.rejected_by[at]]), rows.unscored[at] ? ", for having no score" : ""));
      for (const bound of rows.fails[at]) if (rows.bounds[bound] !== rows.steps[rows.rejected_by[at]]) why.append(element("li", {}, "also outside the bound ", element("code", {}, rows.bounds[bound])));
      if (rows.margin[at] !== null) why.append(element("li", {}, `margin ${number(rows.margin[at])}`, ...(rows.margin_of[at] < 0 ? [] : [" in ", element("code", {}, rows.margin_fields[rows.margin_of[at]])])));
      if (!why.childNodes.length) why.append(element("li", {}, "no step had anything against it"));
      const scores = element("tbody");
      const add = (name, value) => scores.append(element("tr", {}, element("th", { scope: "row" }, name), element("td", { class: "n" }, value)));
      for (const [name, values] of Object.entries(rows.numbers)) if (values[at] !== null) add(name, number(values[at]));
      for (const [name, word] of Object.entries(rows.words)) if (word.of[at] >= 0) add(name, word.names[word.of[at]]);
      for (const flag of rows.has[at]) add(rows.flags[flag], "yes");
      const quoted = element("div", { class: "quoted" }, ...this.passage(prompt(at), 500));
      body.replaceChildren(head, close, element("h3", {}, "Why"), why, element("h3", {}, "Prompt"), quoted, element("h3", {}, "Completion"), ...this.passage(rows.completion[at], 900), element("h3", {}, "Scores"), element("table", {}, element("caption", { class: "unseen" }, "Scores of this row"), scores), element("p", { class: "note" }, "In a terminal: ", element("code", {}, `curate explain DIR ${rows.row[at]}`)));
      body.scrollTop = 0;
    },
  };

  // ---- surprise: the number of a token, by pointer or arrow keys -----------------------------------------------------
  function startSurprise() {
    for (const tokens of document.querySelectorAll(".tokens")) {
      const readout = tokens.parentElement.querySelector("header").appendChild(element("output", {}, ""));
      const pieces = [...tokens.querySelectorAll("[title]")];
      let current = -1;
      const say = (piece) => { readout.textContent = piece ? `“${piece.textContent.trim() || "space"}” ${piece.title}` : ""; };
      const move = (to) => {
        if (pieces[current]) pieces[current].classList.remove("current");
        current = Math.min(pieces.length - 1, Math.max(0, to));
        pieces[current].classList.add("current");
        say(pieces[current]);
      };
      tokens.addEventListener("pointerover", (event) => say(event.target.title ? event.target : null));
      tokens.addEventListener("keydown", (event) => {
        const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -pieces.length, End: pieces.length };
        if (!(event.key in moves) || !pieces.length) return;
        move(current + moves[event.key]);
        event.preventDefault();
      });
      tokens.addEventListener("blur", () => { if (pieces[current]) pieces[current].classList.remove("current"); current = -1; say(null); });
    }
  }

  startTheme();
  browser.start();
  startScores();
  for (const box of document.querySelectorAll("[data-picture]")) draw(box, (into) => scatter(into, data.pictures[Number(box.dataset.picture)]));
  for (const box of document.querySelectorAll("[data-chart]")) draw(box, (into) => lineChart(into, data.charts[Number(box.dataset.chart)]));
  startSurprise();
  document.documentElement.dataset.ready = "yes";
  performance.mark("ready");
})();
