// The pages. Each makes its elements once and returns `update(data)`, which puts in what is known now.

import { legend, lines, spark, stacked, strip } from "./charts.js";
import { address, bytes, changed, count, h, span, table } from "./dom.js";

export const STATES = ["running", "idle", "initializing", "throttled", "outdated", "unhealthy"];
// Columns of a row of history: when, waiting, in progress, then workers as the gateway counts them.
const COLUMN = { initializing: 3, idle: 4, running: 5, throttled: 6, outdated: 7, unhealthy: 8 };
const PARTS = ["claim", "environment", "fork", "spawn", "imports", "setup", "first_job"];
const TONE = { IN_QUEUE: "warn", IN_PROGRESS: "busy", COMPLETED: "good", FAILED: "bad", TIMED_OUT: "bad", CANCELLED: "" };

const link = (words, to) => h("a", { href: to }, words);
const pill = (words, tone = "") => h("span", { class: `pill ${tone}` }, words);
const jobLink = (id) => [id, () => (id ? link(id, address("job", id)) : "")];
const endpointLink = (name) => [name, () => link(name, address("endpoint", name))];
const statusPill = (status) => [status, () => pill(status.replace("_", " ").toLowerCase(), TONE[status] ?? "")];
const ago = (ms, now) => (ms ? `${span((now - ms) / 1000)} ago` : "");

function card(title, ...children) {
  return h("section", { class: "card" }, title ? h("h2", {}, title) : null, children);
}

function workerCounts(row) {
  const said = STATES.filter((state) => row[state]).map((state) => `${row[state]} ${state}`);
  return said.length ? said.join(" · ") : "none";
}

function workersCell(row) {
  return [[STATES.map((state) => row[state]), row.workers_max], () => h("div", { class: "workers" },
    strip(STATES.map((state) => [state, row[state], `${row[state]} ${state}`]), row.workers_max ?? 0),
    h("span", {}, workerCounts(row), h("span", { class: "dim" }, row.workers_max === null ? "" : ` of ${row.workers_max}`)))];
}

function overTime() {
  const depth = h("div"), fleet = h("div");
  const node = h("div", { class: "pair" },
    card("Jobs over time", depth, legend([["waiting", "waiting"], ["progress", "in progress"]])),
    card("Workers over time", fleet, legend(STATES.map((state) => [state, state]))));
  const update = (rows) => {
    changed(depth, rows, () => lines("jobs over time", rows, [["waiting", 1], ["progress", 2]]));
    changed(fleet, rows, () => stacked("workers over time", rows, STATES.map((state) => [state, COLUMN[state]])));
  };
  return { node, update };
}

// -- endpoints ---------------------------------------------------------------------------------------

export function endpointsPage() {
  const tiles = h("div", { class: "tiles" });
  const charts = overTime();
  const wanted = h("input", { type: "search", placeholder: "Name…", "aria-label": "Filter endpoints by name" });
  const trends = new Map();
  const rows = table([
    ["Endpoint", "id", (row) => endpointLink(row.endpoint)],
    ["Waiting", "number", (row) => count(row.queued + row.scheduled)],
    ["Trend", "", (row) => [trends.get(row.endpoint), () => spark(trends.get(row.endpoint) ?? [])]],
    ["Oldest", "number", (row) => span(row.oldest_age_s)],
    ["In progress", "number", (row) => count(row.in_progress)],
    ["Failed", "number", (row) => count(row.failed)],
    ["Workers", "", workersCell],
    ["Why", "words", (row) => row.reason],
  ], (row) => row.endpoint, "No endpoint is registered: run a program that calls one.");
  let last = null;

  function update(data) {
    last = data;
    const { now, history } = data;
    for (const row of now.endpoints) {
      trends.set(row.endpoint, [...(trends.get(row.endpoint) ?? []), row.queued + row.scheduled].slice(-60));
    }
    changed(tiles, figures(now), () => figures(now).map(([value, words]) => h("div", { class: "tile" }, h("b", {}, value), h("span", {}, words))));
    charts.update(history);
    show();
  }
  function show() {
    if (!last) return;
    const word = wanted.value.trim().toLowerCase();
    const found = last.now.endpoints.filter((row) => row.endpoint.toLowerCase().includes(word));
    const load = (row) => row.queued + row.scheduled + row.in_progress;
    rows.update(found.sort((a, b) => load(b) - load(a) || a.endpoint.localeCompare(b.endpoint)));
  }
  wanted.addEventListener("input", show);
  const bar = h("div", { class: "bar" }, h("h1", {}, "Endpoints"), wanted);
  return { nodes: [tiles, charts.node, h("section", { class: "card" }, bar, h("div", { class: "scroll" }, rows.node))], update };
}

function figures(now) {
  const sum = (of) => now.endpoints.reduce((total, row) => total + of(row), 0);
  const found = [
    [count(sum((row) => row.queued + row.scheduled)), "jobs waiting"],
    [count(sum((row) => row.in_progress)), "in progress"],
    [count(sum((row) => row.running + row.idle + row.initializing)), "workers"],
    [count(now.endpoints.length), "endpoints"],
  ];
  if (now.whole) {
    const gpus = now.hosts.flatMap((host) => host.gpus);
    found.push([`${now.hosts.filter((host) => host.state === "ready").length} / ${now.hosts.length}`, "hosts ready"]);
    if (gpus.length) found.push([`${gpus.filter((gpu) => gpu.worker).length} / ${gpus.length}`, "GPUs in use"]);
    const leads = now.autoscalers.some((one) => one.state === "leads");
    found.push([leads ? "leads" : "none", "autoscaler"]);
  }
  return found;
}

// -- one endpoint --------------------------------------------------------------------------------------

export function endpointPage(name, actions) {
  const facts = h("dl");
  const buttons = h("div", { class: "actions" });
  const charts = overTime();
  const list = jobsTable(false);
  let at = 0;
  const workers = workersTable(() => at, false);
  const cold = h("div");
  const events = table([
    ["When", "tight", (row) => ago(row.at, at)],
    ["What", "tight", (row) => row.what],
    ["Of", "id", (row) => (row.subject === name ? "" : row.subject)],
    ["Why", "words", (row) => row.why],
  ], (row) => [row.at, row.what, row.subject, row.why].join(" "), "Nothing yet.");

  function update({ now, history, jobs, past }) {
    at = now.at;
    const row = now.endpoints.find((one) => one.endpoint === name);
    changed(facts, [row], () => (row ? described(row) : [h("dd", { class: "dim" }, "It is not registered.")]));
    changed(buttons, [actions.may(), row?.queued, row?.scheduled], () =>
      actions.may() && row ? [actions.button("Purge queue", `Cancel all ${count(row.queued + row.scheduled)} that wait?`, () => actions.act("purge", name))] : []);
    charts.update(history);
    workers.update(now.workers.filter((worker) => worker.endpoint === name));
    list.update(jobs ?? [], at);
    if (past) {
      changed(cold, past.cold_starts, () => coldStarts(past.cold_starts));
      events.update(past.events);
    }
  }
  const bar = h("div", { class: "bar" }, h("h1", {}, name), link("All its jobs", address("jobs", "", { endpoint: name })), buttons);
  return {
    nodes: [
      h("section", { class: "card" }, bar, facts), charts.node,
      card("Last cold starts: what each job waited for", cold),
      card("Workers", h("div", { class: "scroll" }, workers.node)),
      card("Jobs", h("div", { class: "scroll" }, list.node)),
      card("Events", h("div", { class: "scroll" }, events.node)),
    ],
    update,
  };
}

function pairs(entries) {
  return entries.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
}

function described(row) {
  return pairs([
    ["Waiting", `${count(row.queued)} queued, ${count(row.scheduled)} for later`],
    ["Oldest", span(row.oldest_age_s)],
    ["In progress", count(row.in_progress)],
    ["Failed", count(row.failed)],
    ["Workers", `${workerCounts(row)} (${row.workers_min ?? "?"} to ${row.workers_max ?? "?"})`],
    ["Why", row.reason],
    ["Revision", row.revision],
  ]);
}

function coldStarts(starts) {
  if (!starts.length) return h("p", { class: "dim" }, "None among the last jobs: workers were there.");
  const longest = Math.max(...starts.map((one) => Object.values(one.startup).reduce((a, b) => a + b, 0)));
  const used = PARTS.filter((part) => starts.some((one) => part in one.startup));
  const rows = table([
    ["Job", "id", (row) => jobLink(row.job)],
    ["Total", "number", (row) => span(row.total_s)],
    ["Parts", "wide", (row) => [[row.startup, longest], () => strip(startup(row.startup), longest)]],
    ...used.map((part) => [part.replace("_", " "), "number", (row) => span(row.startup[part])]),
  ], (row) => row.job, "");
  rows.update(starts);
  return [h("div", { class: "scroll" }, rows.node), legend(used.map((part) => [part, part.replace("_", " ")]))];
}

function startup(parts) {
  return Object.entries(parts).map(([part, s]) => [PARTS.includes(part) ? part : "other", s, `${part.replace("_", " ")} ${span(s)}`]);
}

function workersTable(at, withEndpoint) {
  const tone = { running: "busy", idle: "good", initializing: "warn", throttled: "bad", unhealthy: "bad" };
  return table([
    ["Worker", "id", (row) => row.id],
    ...(withEndpoint ? [["Endpoint", "id", (row) => endpointLink(row.endpoint)]] : []),
    ["State", "tight", (row) => [[row.state, row.draining], () => [pill(row.state ?? "gone", tone[row.state] ?? ""), row.draining ? " draining" : ""]]],
    ["Since", "tight", (row) => (row.since ? span((at() - row.since) / 1000) : "")],
    ["Host", "id", (row) => row.host],
    ["Job", "id", (row) => jobLink(row.job)],
    ["Why", "words", (row) => row.reason],
  ], (row) => row.id, "No workers.");
}

// -- jobs ----------------------------------------------------------------------------------------------

function jobsTable(withEndpoint) {
  let at = 0;
  const made = table([
    ["Job", "id", (row) => jobLink(row.id)],
    ...(withEndpoint ? [["Endpoint", "id", (row) => endpointLink(row.endpoint)]] : []),
    ["Status", "tight", (row) => statusPill(row.status)],
    ["Submitted", "tight", (row) => ago(row.enqueued_at, at)],
    ["Waited", "number", (row) => span(((row.started_at ?? row.ended_at ?? at) - row.enqueued_at) / 1000)],
    ["Ran", "number", (row) => (row.started_at ? span(((row.ended_at ?? at) - row.started_at) / 1000) : "")],
    ["Start", "tight", (row) => (row.cold_start ? "cold" : "")],
    ["Why", "words", (row) => (row.status === "COMPLETED" ? "" : row.why?.detail)],
  ], (row) => row.id, "No jobs.");
  return { node: made.node, update: (rows, now) => { at = now; made.update(rows); } };
}

export function jobsPage(query, go) {
  const choose = (name, label, options) => {
    const node = h("select", { "aria-label": label, onchange: () => go({ ...query, [name]: node.value }) },
      options.map(([value, words]) => h("option", { value, selected: value === (query[name] ?? "") }, words)));
    return node;
  };
  const endpoints = h("span");
  const statuses = Object.keys(TONE).map((status) => [status, status.replace("_", " ").toLowerCase()]);
  const list = jobsTable(true);
  const total = h("span", { class: "dim" });
  const bar = h("div", { class: "bar" }, h("h1", {}, "Jobs"), total, endpoints,
    choose("status", "Status", [["", "every status"], ...statuses]),
    choose("limit", "How many", [["", "100 at most"], ["300", "300 at most"], ["1000", "1,000 at most"]]));
  function update({ now, jobs }) {
    const names = now.endpoints.map((row) => row.endpoint);
    changed(endpoints, names, () => choose("endpoint", "Endpoint", [["", "every endpoint"], ...names.map((name) => [name, name])]));
    changed(total, jobs?.length ?? 0, () => `${count(jobs?.length)} shown`);
    list.update(jobs ?? [], now.at);
  }
  return { nodes: [h("section", { class: "card" }, bar, h("div", { class: "scroll" }, list.node))], update };
}

// -- one job -------------------------------------------------------------------------------------------

const ENDED = ["COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED"];

export function jobPage(id, actions) {
  const facts = h("dl"), why = h("div"), times = h("div"), buttons = h("div", { class: "actions" });
  const status = h("span"), error = h("div"), log = h("pre", { tabindex: 0, "aria-label": "Output" });
  const errorCard = card("Error", error), cut = h("p", { class: "dim", hidden: true }, "The last lines: `flashq logs` has more.");

  function update({ now, job }) {
    if (!job) return;
    const at = now.at;
    changed(status, job.status, () => statusPill(job.status)[1]());
    changed(why, job.why, () => [h("p", {}, h("b", {}, job.why.detail)), h("p", { class: "dim" }, commands(job.why.advice))]);
    changed(facts, [job, ENDED.includes(job.status) ? 0 : at], () => jobFacts(job, at));
    const running = job.started_at && !job.ended_at ? (at - job.started_at) / 1000 : null;
    changed(times, [job.timing, running], () => timing({ ...job.timing, execution_s: job.timing.execution_s ?? running }));
    errorCard.hidden = !job.error;
    changed(error, job.error, () => (job.error ? [h("pre", { class: "error" }, job.error)] : []));
    cut.hidden = !job.log_cut;
    const follows = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    changed(log, job.log, () => (job.log.length ? job.log.join("\n") : "It printed nothing, or its output is kept no longer."));
    if (follows) log.scrollTop = log.scrollHeight;
    changed(buttons, [actions.may(), job.status], () => {
      if (!actions.may()) return [];
      if (!ENDED.includes(job.status)) return [actions.button("Cancel", "Really cancel?", () => actions.act("cancel", id))];
      return ["FAILED", "TIMED_OUT"].includes(job.status) ? [actions.button("Retry", "Really retry?", () => actions.act("retry", id))] : [];
    });
  }
  const bar = h("div", { class: "bar" }, h("h1", {}, id), status, buttons);
  return {
    nodes: [h("section", { class: "card" }, bar, why, facts), card("Where its time went", times), errorCard, card("Output", cut, log)],
    update,
  };
}

// What stands between backticks is a command.
const commands = (words) => words.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));

function jobFacts(job, at) {
  return pairs([
    ["Endpoint", link(job.endpoint, address("endpoint", job.endpoint))],
    ["Call", job.description],
    ["Submitted", ago(job.enqueued_at, at)],
    ["Began", ago(job.started_at, at)],
    ["Ended", ago(job.ended_at, at)],
    ["Worker", job.worker],
    ["Runs", `${job.attempts} (${job.retries} retries, ${job.losses} lost)`],
    ["Priority", job.priority ? String(job.priority) : ""],
    ["Progress", job.progress === null ? "" : JSON.stringify(job.progress)],
    ["Called by", job.parent ? link(job.parent, address("job", job.parent)) : ""],
    ["Revision", job.revision],
  ]);
}

function timing(spent) {
  const known = (s) => s ?? 0;
  const main = [["queued", spent.queued_s], ["claimed", spent.claimed_s], ["execution", spent.execution_s]].filter(([, s]) => s !== null);
  const parts = Object.entries(spent.startup ?? {});
  if (!main.length && !parts.length) return h("p", { class: "dim" }, "Nothing yet.");
  const shown = [strip(main.map(([part, s]) => [part, known(s), `${part} ${span(s)}`])),
    legend(main.map(([part, s]) => [part, `${part} ${span(s)}`]))];
  if (parts.length) {
    shown.push(h("p", { class: "dim" }, "Cold start"), strip(startup(spent.startup)),
      legend(parts.map(([part, s]) => [PARTS.includes(part) ? part : "other", `${part.replace("_", " ")} ${span(s)}`])));
  }
  return shown;
}

// -- hosts ---------------------------------------------------------------------------------------------

export function hostsPage() {
  const list = h("div"), note = h("p", { class: "dim", hidden: true }, "This API key is for some endpoints alone: hosts are not shown.");
  let at = 0;
  const workers = workersTable(() => at, true);
  const tone = { ready: "good", draining: "warn", silent: "bad" };
  const hosts = table([
    ["Host", "id", (row) => [[row.id, row.hostname], () => [row.id, row.hostname && row.hostname !== row.id ? h("div", { class: "dim" }, row.hostname) : null].filter(Boolean)]],
    ["State", "tight", (row) => [row.state, () => pill(row.state, tone[row.state] ?? "")]],
    ["Workers", "number", (row) => row.workers],
    ["Cores", "number", (row) => row.cpus],
    ["Memory", "number", (row) => bytes(row.memory)],
    ["GPUs", "wide", (row) => [row.gpus, () => (row.gpus.length ? row.gpus.map(gpu) : "none")]],
    ["Notes", "words", (row) => [row.drain_reason, ...row.gpu_faults, ...row.lacks, ...row.labels].filter(Boolean).join("; ")],
  ], (row) => row.id, "No host is connected: `flashq host` on a machine.");
  list.append(hosts.node);
  function update({ now }) {
    at = now.at;
    note.hidden = now.whole;
    hosts.update(now.hosts);
    workers.update(now.workers);
  }
  return { nodes: [card("", h("h1", {}, "Hosts"), note, h("div", { class: "scroll" }, list)), card("Workers", h("div", { class: "scroll" }, workers.node))], update };
}

function gpu(one) {
  const total = Number(one.memory_bytes) || 0, used = Number(one.used_bytes) || 0;
  const busy = Number.isFinite(one.utilisation) ? ` · ${Math.round(one.utilisation)} %` : "";
  return h("div", { class: "gpu" },
    h("span", {}, String(one.name ?? one.uuid ?? "GPU")),
    strip([["used", used, `${bytes(used)} of ${bytes(total)} used`]], total),
    h("span", { class: "dim" }, `${bytes(used)} / ${bytes(total)}${busy}${one.worker ? ` · ${one.worker}` : ""}${one.kept ? ` · kept: ${one.kept}` : ""}`));
}
