// Small charts as SVG. Each takes numbers and returns an element; none knows where the numbers are from.

import { h, span, svg } from "./dom.js";

const WIDTH = 600, HEIGHT = 150, LEFT = 34, BOTTOM = 18, TOP = 8;
const GAP_MS = 15000; // without a look for so long, nothing is known of what was between
const SHORTEST_MS = 60000;

function ceiling(most) {
  if (most <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 5, 10].map((step) => step * power).find((value) => value >= most);
}

function short(value) {
  return value >= 10000 ? `${Math.round(value / 1000)}k` : String(Math.round(value * 10) / 10);
}

// Runs of rows between gaps.
function runs(rows) {
  const found = [];
  rows.forEach((row, at) => {
    if (!at || row[0] - rows[at - 1][0] > GAP_MS) found.push([]);
    found.at(-1).push(row);
  });
  return found;
}

function frame(rows, most) {
  const end = rows.at(-1)?.[0] ?? 0;
  const begin = Math.min(rows[0]?.[0] ?? 0, end - SHORTEST_MS);
  const top = ceiling(most);
  const x = (at) => LEFT + ((at - begin) / (end - begin || 1)) * (WIDTH - LEFT - 4);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const marks = [0, top / 2, top].flatMap((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - 4, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
  ]);
  marks.push(
    svg("text", { x: LEFT, y: HEIGHT - 3 }, `${span((end - begin) / 1000)} ago`),
    svg("text", { x: WIDTH - 4, y: HEIGHT - 3, "text-anchor": "end" }, "now"),
  );
  return { x, y, marks };
}

const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function drawn(label, nodes) {
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, nodes);
}

// Lines over time. `series`: [class, column of a row].
export function lines(label, rows, series) {
  const most = Math.max(0, ...rows.flatMap((row) => series.map(([, column]) => row[column])));
  const { x, y, marks } = frame(rows, most);
  const shapes = runs(rows).flatMap((run) =>
    series.flatMap(([kind, column]) => {
      const points = run.map((row) => [x(row[0]), y(row[column])]);
      const base = `L${x(run.at(-1)[0]).toFixed(1)} ${y(0)}L${x(run[0][0]).toFixed(1)} ${y(0)}Z`;
      return [
        svg("path", { class: `area fill-${kind}`, d: path(points) + base }),
        svg("path", { class: `line-${kind}`, d: path(points), "stroke-linejoin": "round" }),
      ];
    }),
  );
  return drawn(label, [...marks, ...shapes]);
}

// Areas on top of each other over time.
export function stacked(label, rows, series) {
  const sum = (row, upTo) => series.slice(0, upTo).reduce((total, [, column]) => total + row[column], 0);
  const most = Math.max(0, ...rows.map((row) => sum(row, series.length)));
  const { x, y, marks } = frame(rows, most);
  const shapes = runs(rows).flatMap((run) =>
    series.map(([kind], at) => {
      const upper = run.map((row) => [x(row[0]), y(sum(row, at + 1))]);
      const lower = run.map((row) => [x(row[0]), y(sum(row, at))]).reverse();
      return svg("path", { class: `fill-${kind}`, d: `${path(upper)}${path(lower).replace("M", "L")}Z` });
    }),
  );
  return drawn(label, [...marks, ...shapes]);
}

export function legend(entries) {
  return h("div", { class: "legend" }, entries.map(([kind, words]) =>
    h("span", {}, h("i", { class: `fill-${kind}` }), words)));
}

// One line in a row of a table: the last values, oldest first.
export function spark(values) {
  const most = Math.max(4, ...values);
  const points = values.map((value, at) => [(at / Math.max(1, values.length - 1)) * 108 + 1, 20 - (value / most) * 18]);
  const line = points.length > 1 ? svg("path", { class: "line-waiting", d: path(points) }) : null;
  return svg("svg", { class: "spark", viewBox: "0 0 110 22", "aria-hidden": "true" }, line);
}

// One bar in parts: [class, amount, title].
export function strip(parts, whole = 0) {
  const total = Math.max(whole, parts.reduce((sum, [, amount]) => sum + amount, 0)) || 1;
  let at = 0;
  const shapes = [svg("rect", { class: "fill-free", x: 0, y: 0, width: 1000, height: 12 })];
  for (const [kind, amount, title] of parts) {
    const width = (amount / total) * 1000;
    if (width > 0) {
      shapes.push(svg("rect", { class: `fill-${kind}`, x: at, y: 0, width, height: 12 }, svg("title", {}, title)));
    }
    at += width;
  }
  const label = parts.filter(([, amount]) => amount > 0).map(([, , title]) => title).join(", ");
  return svg("svg", { class: "strip", viewBox: "0 0 1000 12", preserveAspectRatio: "none", role: "img", "aria-label": label }, shapes);
}
