// Makes and changes elements. Data only ever becomes text: nothing here parses HTML, and the page's policy forbids it.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

export function h(name, attributes, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

// An address within the page. Parts are data: encoded, they stay parts.
export function address(page, part = "", query = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
  const tail = words.toString();
  return `#/${page}${part ? `/${encodeURIComponent(part)}` : ""}${tail ? `?${tail}` : ""}`;
}

// Put `make()` in place of what a node has, where `of` differs from the last time: what is the same is left alone, so
// that nothing that is selected, focused or scrolled is lost every second.
export function changed(node, of, make) {
  const mark = JSON.stringify(of);
  if (node.mark === mark) return;
  node.mark = mark;
  node.replaceChildren(...[make()].flat().filter((child) => child !== null && child !== undefined));
}

// A table whose rows are kept by key. `columns`: [title, class, cell(row) → text or [of, make]].
export function table(columns, key, empty) {
  const body = h("tbody");
  const head = h("tr", {}, columns.map(([title, kind]) => h("th", { class: kind, scope: "col" }, title)));
  const node = h("table", {}, h("thead", {}, head), body);
  const known = new Map();
  const none = h("tr", {}, h("td", { class: "empty", colspan: columns.length }, empty));

  function update(rows) {
    const wanted = [];
    const seen = new Set();
    for (const row of rows) {
      const id = key(row);
      if (seen.has(id)) continue;
      seen.add(id);
      let line = known.get(id);
      if (!line) {
        line = h("tr", {}, columns.map(([, kind]) => h("td", { class: kind })));
        known.set(id, line);
      }
      columns.forEach(([, , cell], at) => {
        const found = cell(row);
        if (Array.isArray(found)) changed(line.children[at], found[0], found[1]);
        else changed(line.children[at], found ?? "", () => String(found ?? ""));
      });
      wanted.push(line);
    }
    for (const [id, line] of known) {
      if (!seen.has(id)) {
        line.remove();
        known.delete(id);
      }
    }
    if (!wanted.length) wanted.push(none);
    else none.remove();
    wanted.forEach((line, at) => {
      if (body.children[at] !== line) body.insertBefore(line, body.children[at] ?? null);
    });
  }
  return { node, update };
}

// -- words -----------------------------------------------------------------------------------------

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const s = Math.max(0, seconds);
  if (s > 0 && s < 0.0005) return "< 1 ms";
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

export function bytes(count) {
  if (count === null || count === undefined || !Number.isFinite(Number(count))) return "";
  const value = Number(count);
  return value >= 2 ** 30 ? `${(value / 2 ** 30).toFixed(1)} GiB` : `${Math.round(value / 2 ** 20)} MiB`;
}

export const count = (number) => (number ?? 0).toLocaleString("en");
