// Asks the gateway. The key is in this tab's memory and sessionStorage, and goes out in a header only: no cookie, so
// that no other page can act with it.

const KEPT = "flashq-key";
let key = sessionStorage.getItem(KEPT) ?? "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => key !== "";

export function signIn(word) {
  key = word.trim();
  if (key) sessionStorage.setItem(KEPT, key);
  else sessionStorage.removeItem(KEPT);
}

async function ask(method, path) {
  const headers = { Accept: "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  let reply;
  try {
    reply = await fetch(path, { method, headers, credentials: "omit", cache: "no-store", redirect: "error" });
  } catch {
    throw new Refused(0, "the gateway does not answer");
  }
  let said = {};
  try {
    said = await reply.json();
  } catch {
    throw new Refused(reply.status, `the gateway answered with status ${reply.status}`);
  }
  if (!reply.ok) throw new Refused(reply.status, String(said.error ?? reply.status));
  return said;
}

export function get(what, query = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
  return ask("GET", `/-/view/${what}${words.size ? `?${words}` : ""}`);
}

export function act(verb, name) {
  return ask("POST", `/-/act/${verb}/${encodeURIComponent(name)}`);
}
