// Which page is shown, and what it is given: asks once a second while the tab is seen, and not otherwise.

import { changed, h } from "./dom.js";
import { act, get, hasKey, signIn } from "./feed.js";
import { endpointPage, endpointsPage, hostsPage, jobPage, jobsPage } from "./views.js";

const main = document.getElementById("main");
const live = document.getElementById("live");
const trouble = document.getElementById("trouble");
const sign = document.getElementById("sign");
const door = document.getElementById("door");
const input = document.getElementById("key");
const refused = document.getElementById("refused");

const SLOWER = 3; // lists of jobs and the past are asked for every so many looks
const PAUSE_MS = 1000, LONGEST_PAUSE_MS = 10000, SILENCE_MS = 6000, KEPT = 600;
let shown = null; // { page, part, query, view, ticks }
let past = []; // how everything was, oldest first: { at, of: { endpoint: [waiting, in progress, workers…] } }
let signedIn = false, shutOut = false, turnedAway = false, lastAt = 0, turn = 0, timer = 0, failures = 0;

// -- where we are ------------------------------------------------------------------------------------

function place() {
  const [path, words = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [page = "", part = ""] = path.split("/");
  let name = part;
  try {
    name = decodeURIComponent(part);
  } catch {
    name = part; // somebody typed it: it is shown as it is, and not found
  }
  return { page: page || "endpoints", part: name, query: Object.fromEntries(new URLSearchParams(words)) };
}

const actions = {
  may: () => signedIn,
  async act(verb, name) {
    try {
      await act(verb, name);
      say("");
    } catch (error) {
      say(error.message);
    }
    look();
  },
  // A button that asks once more before it does anything.
  button(words, question, then) {
    const node = h("button", { type: "button", class: "risky" }, words);
    let asked = false;
    node.addEventListener("click", () => {
      if (asked) {
        node.disabled = true;
        then();
        return;
      }
      asked = true;
      node.replaceChildren(question);
    });
    node.addEventListener("blur", () => {
      asked = false;
      node.replaceChildren(words);
    });
    return node;
  },
};

function go(query) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  location.hash = `#/jobs${words ? `?${words}` : ""}`;
}

function open() {
  const at = place();
  const made = {
    endpoints: () => endpointsPage(),
    endpoint: () => endpointPage(at.part, actions),
    jobs: () => jobsPage(at.query, go),
    job: () => jobPage(at.part, actions),
    hosts: () => hostsPage(),
  }[at.page];
  const view = made ? made() : { nodes: [h("p", {}, "There is no such page.")], update() {} };
  shown = { ...at, view, ticks: 0, known: {} };
  main.replaceChildren(...view.nodes);
  window.scrollTo(0, 0);
  const current = { endpoint: "endpoints", job: "jobs" }[at.page] ?? at.page;
  for (const node of document.querySelectorAll("nav a")) {
    if (node.dataset.page === current) node.setAttribute("aria-current", "page");
    else node.removeAttribute("aria-current");
  }
  look();
}

// -- looking -----------------------------------------------------------------------------------------

async function gathered(one) {
  const { page, part, query } = one;
  const seldom = one.ticks % SLOWER === 0;
  const wanted = { now: get("now", { since: past.at(-1)?.at }) };
  if (page === "endpoint" && seldom) {
    wanted.jobs = get("jobs", { endpoint: part, limit: 50 });
    wanted.past = get(`endpoints/${encodeURIComponent(part)}`);
  }
  if (page === "jobs" && seldom) wanted.jobs = get("jobs", query);
  if (page === "job") wanted.job = get(`jobs/${encodeURIComponent(part)}`);
  const names = Object.keys(wanted);
  const ended = await Promise.allSettled(Object.values(wanted));
  const found = {};
  let failed = null;
  ended.forEach((end, at) => {
    if (end.status === "fulfilled") found[names[at]] = end.value;
    else failed ??= end.reason;
  });
  return { found, failed };
}

// Rows of when, waiting, in progress, and workers in each state: of one endpoint, or of all together.
function rows(endpoint) {
  return past.map(({ at, of }) => {
    const points = endpoint ? [of[endpoint] ?? []] : Object.values(of);
    const sums = Array(8).fill(0);
    for (const values of points) values.forEach((value, column) => (sums[column] += value));
    return [at, ...sums];
  });
}

async function look() {
  clearTimeout(timer);
  const mine = ++turn;
  const one = shown;
  const { found, failed } = await gathered(one);
  if (mine !== turn || one !== shown) return;
  one.ticks += 1;
  if (found.now) take(one, found);
  failures = failed ? failures + 1 : 0;
  if (failed?.status === 401) shut(failed.message);
  else say(failed ? failed.message : "");
  beat();
  const pause = Math.min(LONGEST_PAUSE_MS, PAUSE_MS * 2 ** Math.min(4, failures));
  if (!document.hidden) timer = setTimeout(look, pause);
}

function take(one, found) {
  const { now } = found;
  lastAt = performance.now();
  signedIn = now.signed_in;
  shutOut = turnedAway = false;
  changed(sign, [signedIn, now.key], () => (signedIn ? `Sign out ${now.key}` : "Sign in"));
  const known = one.known;
  past = [...past, ...now.history].slice(-KEPT);
  const history = one.page === "endpoints" || one.page === "endpoint" ? rows(one.page === "endpoint" ? one.part : "") : [];
  if (found.jobs) known.jobs = found.jobs;
  if (found.past) known.past = found.past;
  if (found.job) known.job = found.job;
  one.view.update({ now, history, ...known });
}

function beat() {
  const silent = performance.now() - lastAt;
  const ok = lastAt > 0 && silent < SILENCE_MS;
  live.className = ok ? "live" : "lost";
  live.textContent = ok ? "live" : lastAt ? `as of ${Math.round(silent / 1000)} s ago` : "no data";
}

function say(words) {
  trouble.hidden = !words;
  trouble.textContent = words;
}

// -- signing in --------------------------------------------------------------------------------------

function shut(words) {
  shutOut = true;
  signedIn = false;
  changed(sign, [false], () => "Sign in");
  say(hasKey() ? words : "Sign in to look: an API key is needed.");
  if (!door.open && !turnedAway) {
    door.showModal();
    refused.hidden = !hasKey();
    refused.textContent = words;
  }
}

async function enter() {
  signIn(input.value);
  input.value = "";
  try {
    const now = await get("now");
    refused.hidden = now.signed_in;
    refused.textContent = "This gateway has no API keys: make one first. Until then everybody on this machine may look.";
    if (!now.signed_in) signIn("");
    else door.close();
    past = []; // it may have been of other endpoints
  } catch (error) {
    signIn("");
    refused.hidden = false;
    refused.textContent = error.message;
  }
  look();
}

sign.textContent = "Sign in";
sign.addEventListener("click", () => {
  if (signedIn) {
    signIn("");
    signedIn = false;
    turnedAway = false;
    past = [];
    open();
  } else {
    refused.hidden = true;
    door.showModal();
  }
});
document.getElementById("enter").addEventListener("click", enter);
document.getElementById("leave").addEventListener("click", () => door.close());
// Whoever was asked and said no opens it again by the button: it does not come by itself.
door.addEventListener("close", () => (turnedAway = shutOut));
door.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  enter();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else look();
});
window.addEventListener("hashchange", open);
setInterval(beat, 1000);
open();
