// Everything that is shown of endpoints, jobs and logs is put into text nodes: it may be anybody's.
"use strict";

const EVERY_MS = 1000;
const KEPT = 600;
const WORKER_STATES = ["running", "idle", "initializing", "throttled", "outdated", "unhealthy"];
const byId = (id) => document.getElementById(id);
const kept = { history: [], since: 0, signedIn: false, opened: "" };

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") Object.entries(value).forEach(([what, act]) => node.addEventListener(what, act));
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

function drawn(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  node.append(...children);
  return node;
}

async function ask(path, method = "GET") {
  const key = sessionStorage.getItem("flashq-key");
  const answer = await fetch(path, { method, headers: key ? { Authorization: `Bearer ${key}` } : {}, cache: "no-store" });
  const told = await answer.json();
  if (!answer.ok) {
    const error = new Error(told.error || `the gateway answered ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return told;
}

function lasted(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  for (const [limit, unit, name] of [[120, 1, "s"], [7200, 60, "min"], [172800, 3600, "h"]]) {
    if (seconds < limit) return `${(seconds / unit).toFixed(seconds < 10 ? 1 : 0)} ${name}`;
  }
  return `${Math.round(seconds / 86400)} d`;
}

const ago = (at, now) => (at ? `${lasted(Math.max(0, now - at))} ago` : "–");
const chip = (state, text) => make("span", { class: `chip ${state}` }, text);

// -- endpoints ---------------------------------------------------------------------------------------

function chart(name) {
  const points = kept.history.map((entry) => [entry.at, ...(entry.of[name] || [0, 0, 0])]);
  if (points.length < 2) return null;
  const [first, last] = [points[0][0], points[points.length - 1][0]];
  const most = Math.max(1, ...points.map(([, ...values]) => Math.max(...values)));
  const x = (at) => ((at - first) / Math.max(1, last - first)) * 100;
  const y = (value) => 30 - (value / most) * 28;
  const line = (index) => points.map((point) => `${x(point[0]).toFixed(2)},${y(point[index]).toFixed(2)}`).join(" ");
  return drawn(
    "svg",
    { class: "chart", viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": `${name}: waiting, in progress and workers, at most ${most}` },
    drawn("polygon", { class: "runs", points: `0,30 ${line(2)} 100,30` }),
    drawn("polyline", { class: "workers", points: line(3) }),
    drawn("polyline", { class: "waits", points: line(1) }),
  );
}

function number(value, what) {
  return make("div", {}, value, make("small", {}, what));
}

function endpointCard(row) {
  const states = WORKER_STATES.filter((state) => row[state]).map((state) => chip(state, `${row[state]} ${state}`));
  return make(
    "article",
    { class: "card", "data-endpoint": row.endpoint },
    make("h3", {}, make("button", { title: "Its jobs", on: { click: () => choose(row.endpoint) } }, row.endpoint), row.paused ? chip("throttled", "paused") : null),
    make(
      "div",
      { class: "numbers" },
      number(row.queued, "waiting"),
      number(row.in_progress, "in progress"),
      number(lasted(row.queued ? row.oldest_age_s : null), "oldest waits"),
      number(row.failed, "failed"),
    ),
    chart(row.endpoint),
    make("div", { class: "legend" }, make("span", { class: "waits" }, "waiting"), make("span", { class: "runs" }, "in progress"), make("span", { class: "workers" }, "workers")),
    make("div", { class: "chips" }, ...(states.length ? states : [make("span", { class: "none" }, "no workers")]), row.workers_max === null ? null : make("span", { class: "none" }, `of at most ${row.workers_max}`)),
    row.reason ? make("p", { class: "reason" }, row.reason) : null,
    kept.signedIn && row.queued ? make("div", { class: "actions" }, make("button", { on: { click: () => act("purge", row.endpoint, `Cancel the ${row.queued} jobs that wait for ${row.endpoint}?`) } }, "Purge")) : null,
  );
}

function choose(endpoint) {
  byId("of").value = endpoint;
  byId("jobs-title").scrollIntoView({ behavior: "smooth" });
  showJobs();
}

// -- hosts and workers -------------------------------------------------------------------------------

function hostCard(row, now) {
  const gpus = row.gpu_memory.map((gpu) => {
    const share = gpu.memory_bytes ? (100 * (gpu.used_bytes || 0)) / gpu.memory_bytes : 0;
    const used = make("span");
    used.style.width = `${Math.min(100, share)}%`;
    return make("div", { title: gpu.uuid || "" }, make("small", {}, `${gpu.name || "GPU"} · ${gpu.worker ? `of ${gpu.worker}` : "free"} · ${share.toFixed(0)} % of its memory`), make("div", { class: "memory" }, used));
  });
  return make(
    "article",
    { class: "card" },
    make("h3", {}, row.host, chip(row.state, row.state)),
    make("div", { class: "numbers" }, number(row.workers, "workers"), number(row.cpus === null ? "–" : row.cpus, "cores"), number(`${row.gpus_held}/${row.gpus}`, "GPUs held"), number(ago(row.since, now), "since")),
    ...gpus,
  );
}

function table(where, names, rows) {
  where.replaceChildren(make("thead", {}, make("tr", {}, ...names.map((name) => make("th", {}, name)))), make("tbody", {}, ...rows));
}

function workerRow(row, now) {
  return make("tr", {}, make("td", { class: "id" }, row.worker), make("td", {}, chip(row.state || "", row.state || "gone")), make("td", {}, row.host || "–"), make("td", { class: "id" }, row.job || "–"), make("td", {}, ago(row.since, now)));
}

// -- jobs --------------------------------------------------------------------------------------------

function jobRow(row, now) {
  const open = () => openJob(row.id);
  const where = row.why && row.status === "IN_QUEUE" ? `${row.why.cause}: ${row.why.detail}` : row.worker || "–";
  return make(
    "tr",
    { tabindex: "0", "data-job": row.id, on: { click: open, keydown: (event) => event.key === "Enter" && open() } },
    make("td", { class: "id" }, row.id),
    make("td", {}, chip(row.status, row.status)),
    make("td", {}, ago(row.enqueued_at, now)),
    make("td", {}, row.started_at && row.ended_at ? lasted(row.ended_at - row.started_at) : row.started_at ? lasted(now - row.started_at) : "–"),
    make("td", {}, row.cold_start === null ? "–" : row.cold_start ? "cold" : "warm"),
    make("td", {}, where),
  );
}

async function showJobs() {
  const query = new URLSearchParams({ limit: "50" });
  if (byId("of").value) query.set("endpoint", byId("of").value);
  if (byId("in").value) query.set("status", byId("in").value);
  try {
    const rows = await ask(`/-/view/jobs?${query}`);
    const now = Date.now() / 1000;
    table(byId("jobs"), ["Job", "State", "Submitted", "Ran", "Start", "Why it waits, or its worker"], rows.map((row) => jobRow(row, now)));
    if (!rows.length) byId("jobs").append(make("caption", { class: "none" }, "No such jobs."));
  } catch (error) {
    table(byId("jobs"), [error.message], []);
  }
}

function parts(timing) {
  const found = [];
  const started = Object.entries(timing.startup || {});
  if (started.length) found.push(...started);
  else if (timing.queued_s) found.push(["queued", timing.queued_s]);
  if (timing.claimed_s) found.push(["handed over", timing.claimed_s]);
  if (timing.execution_s) found.push(["execution", timing.execution_s]);
  return found.filter(([, seconds]) => seconds > 0);
}

function timingBar(timing) {
  const found = parts(timing);
  const all = found.reduce((sum, [, seconds]) => sum + seconds, 0);
  if (!all) return null;
  const bar = make("div", { class: "bar" });
  const key = make("div", { class: "key" });
  found.forEach(([name, seconds], at) => {
    const piece = make("span", { class: `part-${at % 8}`, title: `${name}: ${lasted(seconds)}` });
    piece.style.flexGrow = String(seconds / all);
    bar.append(piece);
    key.append(make("span", { class: `part-${at % 8}` }), `${name} ${lasted(seconds)}`);
  });
  return make("div", {}, bar, key);
}

async function openJob(id) {
  kept.opened = id;
  const dialog = byId("job");
  const showError = (error) => dialog.replaceChildren(make("h2", { id: "job-title" }, id), make("p", { class: "reason" }, error.message), close());
  const close = () => make("button", { on: { click: () => dialog.close() } }, "Close");
  try {
    const job = await ask(`/-/view/jobs/${encodeURIComponent(id)}`);
    if (kept.opened !== id) return;
    const now = Date.now() / 1000;
    const ended = ["COMPLETED", "FAILED", "TIMED_OUT", "CANCELLED"].includes(job.status);
    const facts = [
      ["Why", `${job.why.detail}${job.why.advice ? ` — ${job.why.advice}` : ""}`],
      ["Submitted", ago(job.enqueued_at, now)],
      ["Worker", job.worker || "–"],
      ["Attempts", job.attempts],
      ["Start", job.cold_start === null ? "–" : job.cold_start ? "cold" : "warm"],
      ["Took", lasted(job.timing.total_s)],
    ];
    if (job.progress !== null) facts.push(["Progress", JSON.stringify(job.progress)]);
    if (job.error) facts.push(["Error", job.error]);
    dialog.replaceChildren(
      make("h2", { id: "job-title" }, job.id, " ", chip(job.status, job.status)),
      timingBar(job.timing),
      make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
      make("pre", { "aria-label": "Its last lines" }, job.log.length ? job.log.join("\n") : "It has printed nothing."),
      make(
        "div",
        { class: "actions" },
        kept.signedIn && !ended ? make("button", { on: { click: () => act("cancel", id) } }, "Cancel") : null,
        kept.signedIn && ["FAILED", "TIMED_OUT"].includes(job.status) ? make("button", { on: { click: () => act("retry", id) } }, "Retry") : null,
        close(),
      ),
    );
  } catch (error) {
    showError(error);
  }
  if (!dialog.open) dialog.showModal();
}

async function act(what, name, question) {
  if (question && !window.confirm(question)) return;
  try {
    await ask(`/-/act/${what}/${encodeURIComponent(name)}`, "POST");
  } catch (error) {
    trouble(error.message);
    return;
  }
  if (what !== "purge") openJob(name);
  showJobs();
}

// -- the page ----------------------------------------------------------------------------------------

function trouble(text) {
  byId("trouble").hidden = !text;
  byId("trouble").textContent = text;
}

function options(names) {
  const select = byId("of");
  const have = [...select.options].slice(1).map((option) => option.value);
  if (have.join("\n") === names.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(make("option", { value: "" }, "all"), ...names.map((name) => make("option", { value: name }, name)));
  select.value = names.includes(chosen) ? chosen : "";
}

function show(now) {
  kept.signedIn = now.signed_in;
  byId("sign-in").hidden = now.signed_in;
  byId("sign-out").hidden = !now.signed_in;
  kept.history = [...kept.history, ...now.history].slice(-KEPT);
  if (now.history.length) kept.since = now.history[now.history.length - 1].at;
  byId("moment").textContent = new Date(now.at * 1000).toLocaleTimeString();
  const none = (text) => [make("p", { class: "none" }, text)];
  byId("endpoints").replaceChildren(...(now.endpoints.length ? now.endpoints.map(endpointCard) : none("No endpoint has been called or deployed yet.")));
  byId("hosts").replaceChildren(...(now.hosts.length ? now.hosts.map((row) => hostCard(row, now.at)) : none("No hosts.")));
  table(byId("workers"), ["Worker", "State", "Host", "Job", "Since"], now.workers.map((row) => workerRow(row, now.at)));
  options(now.endpoints.map((row) => row.endpoint).sort());
}

async function look() {
  if (document.hidden) return;
  try {
    show(await ask(`/-/view/now?since=${kept.since}`));
    trouble("");
    await showJobs();
    if (byId("job").open) await openJob(kept.opened);
  } catch (error) {
    if (error.status === 401) byId("sign-in").hidden = false;
    trouble(error.status === 401 ? `Sign in to look: ${error.message}` : error.message || "the gateway does not answer");
  }
}

byId("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("flashq-key", byId("key").value.trim());
  byId("key").value = "";
  look();
});
byId("sign-out").addEventListener("click", () => {
  sessionStorage.removeItem("flashq-key");
  location.reload();
});
byId("of").addEventListener("change", showJobs);
byId("in").addEventListener("change", showJobs);
byId("job").addEventListener("close", () => { kept.opened = ""; });
document.addEventListener("visibilitychange", look);

(async function watch() {
  for (;;) {
    await look();
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
})();
