// The dashboard: pages chosen by the fragment of the address, drawn from /v1. Text from the server only ever becomes
// text (never markup). The token stays in this tab's session storage and travels in the Authorization header alone.
"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const main = $("main");
let timer = 0, turn = 0, stream = null, shown = { id: null, pre: null }; // the log that stream writes

// el("td", {class: "n"}, "3", child…)
function el(tag, attrs, ...children) {
  const e = document.createElement(tag);
  for (const k in attrs || {}) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), attrs[k]);
    else if (attrs[k] !== null && attrs[k] !== undefined && attrs[k] !== false) e.setAttribute(k, attrs[k] === true ? "" : attrs[k]);
  }
  for (const c of children.flat(Infinity)) if (c !== null && c !== undefined && c !== "") e.append(c);
  return e;
}
const say = (text) => { $("status").textContent = text; };

class Refused extends Error { constructor(status, message) { super(message); this.status = status; } }

async function api(path, method, body) {
  const token = sessionStorage.getItem("mull-token");
  const headers = token ? { Authorization: "Bearer " + token } : {};
  if (body) headers["Content-Type"] = "application/json";
  const r = await fetch(path, { method: method || "GET", headers, body: body && JSON.stringify(body), cache: "no-store" });
  const j = await r.json().catch(() => ({}));
  if (!r.ok) throw new Refused(r.status, (j.error && j.error.message) || "the server answered " + r.status);
  return j;
}

// ---- words
function ago(time) {
  if (!time) return "";
  const s = (Date.now() - Date.parse(time)) / 1000, f = Math.abs(s);
  const t = f < 90 ? Math.round(f) + " s" : f < 5400 ? Math.round(f / 60) + " min" : f < 129600 ? Math.round(f / 3600) + " h" : Math.round(f / 86400) + " d";
  return s >= 0 ? t + " ago" : "in " + t;
}
const when = (time) => time ? el("time", { datetime: time, title: time }, ago(time)) : "";
function num(v) {
  if (v === null || v === undefined) return "";
  if (typeof v !== "number") return String(v);
  return Number.isInteger(v) ? String(v) : Math.abs(v) >= 1e-3 && Math.abs(v) < 1e6 ? String(+v.toPrecision(5)) : v.toExponential(3);
}
const state = (s) => el("span", { class: s }, s);
const jobLink = (id, text) => el("a", { href: "#/job/" + encodeURIComponent(id) }, text || id);
function progress(p) {
  if (!p || !p.total) return p && p.done ? num(p.done) : "";
  return el("span", {}, el("progress", { value: p.done, max: p.total, "aria-label": "progress" }), " " + p.done + "/" + p.total + (p.eta_s ? ", " + ago(new Date(Date.now() + p.eta_s * 1000).toISOString()) : ""));
}
// rows: arrays of cells; columns: names, "#name" for numbers
function table(columns, rows, empty) {
  if (!rows.length) return el("p", {}, empty || "nothing here");
  const n = columns.map((c) => c.startsWith("#") ? "n" : null);
  return el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, columns.map((c, i) => el("th", { scope: "col", class: n[i] }, c.replace(/^#/, ""))))),
    el("tbody", {}, rows.map((r) => el("tr", {}, r.map((c, i) => el("td", { class: n[i] }, c)))))));
}
const facts = (pairs) => el("dl", {}, pairs.filter((p) => p[1] !== "" && p[1] !== null && p[1] !== undefined).map((p) => [el("dt", {}, p[0]), el("dd", {}, p[1])]));
const json = (v) => el("pre", { tabindex: 0 }, JSON.stringify(v, null, 2));

// ---- plots: series = [{name, points: [[step, value]…]}]
function plot(title, series) {
  const NS = "http://www.w3.org/2000/svg", W = 360, H = 180, L = 52, B = 20, T = 8;
  const all = series.flatMap((s) => s.points).filter((p) => Number.isFinite(p[1]));
  if (!all.length) return null;
  const x0 = Math.min(...all.map((p) => p[0])), x1 = Math.max(...all.map((p) => p[0]));
  let y0 = Math.min(...all.map((p) => p[1])), y1 = Math.max(...all.map((p) => p[1]));
  if (y0 === y1) { y0 -= Math.abs(y0) / 10 || 1; y1 += Math.abs(y1) / 10 || 1; }
  const X = (x) => L + (W - L - 6) * (x1 > x0 ? (x - x0) / (x1 - x0) : 0.5), Y = (y) => T + (H - B - T) * (1 - (y - y0) / (y1 - y0));
  const svg = document.createElementNS(NS, "svg");
  const add = (tag, attrs, text) => {
    const e = document.createElementNS(NS, tag);
    for (const k in attrs) e.setAttribute(k, attrs[k]);
    if (text !== undefined) e.textContent = text;
    svg.append(e);
  };
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ` + series.map((s) => `${s.name || ""} ${s.points.length} points, last ${num((s.points[s.points.length - 1] || [])[1])}`).join("; "));
  add("path", { class: "axis", d: `M${L} ${T}V${H - B}H${W - 6}`, fill: "none" });
  for (const y of [y0, (y0 + y1) / 2, y1]) add("text", { x: L - 4, y: Y(y) + 4, "text-anchor": "end" }, num(+y.toPrecision(3)));
  add("text", { x: L, y: H - 5 }, num(x0));
  add("text", { x: W - 6, y: H - 5, "text-anchor": "end" }, num(x1));
  series.forEach((s, i) => {
    const p = s.points.filter((q) => Number.isFinite(q[1]));
    const step = Math.max(1, Math.floor(p.length / 600));
    add("polyline", { class: "c" + i % 4, points: p.filter((_, k) => k % step === 0 || k === p.length - 1).map((q) => X(q[0]).toFixed(1) + "," + Y(q[1]).toFixed(1)).join(" ") });
  });
  return el("figure", {}, el("figcaption", {}, title), svg);
}
function byKey(points) {
  const keys = new Map();
  for (const p of points) {
    if (!keys.has(p.key)) keys.set(p.key, []);
    keys.get(p.key).push([p.step, p.value]);
  }
  for (const v of keys.values()) v.sort((a, b) => a[0] - b[0]);
  return keys;
}

// ---- pages: each returns the nodes to show
async function queuePage() {
  const [q, jobs] = await Promise.all([api("/v1/queue?next=1").catch(() => api("/v1/queue")), api("/v1/jobs?limit=200")]);
  const open = jobs.jobs.filter((j) => j.state === "PENDING" || j.state === "RUNNING");
  const s = q.slots || {};
  return [el("h1", {}, "Queue"),
    facts([["slots", s.total !== undefined ? el("span", {}, el("meter", { min: 0, max: s.total || 1, value: s.busy || 0, "aria-label": "slots in use" }), ` ${s.busy || 0} of ${s.total} in use`) : ""],
      ["leader", q.leader ? `${q.leader.holder} (term ${q.leader.term}${q.leader.alive ? "" : ", not alive"})` : "none"]]),
    table(["job", "name", "kind", "team", "user", "state", "why it waits", "progress", "submitted"], open.map((j) => [jobLink(j.id), j.name, j.kind, j.team, j.user, state(j.state), j.reason || "", progress(j.progress), when(j.submitted_at)]), "nothing waits or runs"),
    Array.isArray(q.next) && q.next.length ? [el("h2", {}, "Starts next"), table(["job", "estimated start", "where"], q.next.map((n) => [jobLink(n.id || n.job), when(n.start || n.starts_at || n.estimated_start) || "not known", n.node || (n.nodes || []).join(", ")]))] : ""];
}
async function jobsPage(query) {
  const cursor = query.get("cursor") || "0", st = query.get("state") || "";
  const r = await api(`/v1/jobs?limit=100&cursor=${encodeURIComponent(cursor)}&state=${encodeURIComponent(st)}`);
  const states = ["", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY"];
  return [el("h1", {}, "Jobs"),
    el("form", {}, el("label", {}, "state", el("select", { onchange: (e) => { location.hash = "#/jobs?state=" + e.target.value; } }, states.map((x) => el("option", { value: x, selected: x === st }, x || "any"))))),
    table(["job", "name", "kind", "team", "user", "state", "reason", "progress", "node", "submitted", "ended"], r.jobs.map((j) => [jobLink(j.id), j.name, j.kind, j.team, j.user, state(j.state), j.reason || "", progress(j.progress), j.node || "", when(j.submitted_at), when(j.ended_at)])),
    r.next_cursor ? el("p", {}, el("a", { href: `#/jobs?state=${st}&cursor=${r.next_cursor}` }, "older")) : ""];
}
function evalTable(job) {
  const rows = [...(job.eval_results || []), ...((job.follow || {}).jobs || []).flatMap((j) => j.eval_results.map((r) => ({ ...r, task: `${r.task} at step ${j.step}` })))];
  return rows.length ? [el("h2", {}, "Results"), table(["task", "metric", "#value", "#low", "#high", "#n"], rows.map((r) => [r.task, r.metric, num(r.value), num(r.low), num(r.high), num(r.n)]))] : "";
}
async function act(id, op) {
  try {
    const r = await api(`/v1/jobs/${encodeURIComponent(id)}/${op}`, "POST");
    say(`job ${id}: ${r.message || r.state}`);
  } catch (e) { say(e.message); }
  draw(false);
}
async function jobPage(query, id) {
  const [j, m, why] = await Promise.all([api("/v1/jobs/" + encodeURIComponent(id)), api(`/v1/jobs/${encodeURIComponent(id)}/metrics?limit=100000`).catch(() => ({ metrics: [] })), api(`/v1/jobs/${encodeURIComponent(id)}/why`).catch(() => ({}))]);
  const points = byKey(m.points || m.metrics || []);
  const plots = [...points].map(([k, v]) => plot(k, [{ name: k, points: v }])).filter(Boolean);
  const open = j.state === "PENDING" || j.state === "RUNNING";
  const button = (op) => el("button", { type: "button", onclick: () => act(id, op) }, op);
  if (shown.id !== id || !stream || stream.signal.aborted) {
    shown = { id, pre: el("pre", { tabindex: 0, id: "log", "aria-label": "log" }) };
    follow(id, shown.pre);
  }
  const log = shown.pre;
  return [el("h1", {}, `Job ${j.id}: ${j.name}`),
    facts([["state", state(j.state)], ["why", open ? why.message || j.reason : j.message || ""], ["kind", j.kind], ["team, user", `${j.team}, ${j.user}`], ["priority", num(j.priority)], ["progress", progress(j.progress)], ["node", j.node || ""], ["submitted", when(j.submitted_at)], ["started", when(j.started_at)], ["ended", when(j.ended_at)]]),
    el("p", {}, open ? [button("cancel"), " ", j.state === "PENDING" ? [button("hold"), " ", button("release")] : ""] : button("requeue")),
    plots.length ? [el("h2", {}, "Metrics"), el("div", { class: "plots" }, plots)] : "",
    evalTable(j),
    (j.checkpoints || []).length ? [el("h2", {}, "Checkpoints"), table(["#step", "path", "state", "created"], j.checkpoints.map((c) => [num(c.step), c.path, c.state || "", when(c.created_at)]))] : "",
    el("h2", {}, "Attempts"), table(["#attempt", "node", "state", "class", "started", "ended", "message"], (j.attempts || []).map((a) => [num(a.attempt), a.node, state(a.state), a.class || "", when(a.started_at), when(a.ended_at), a.message || ""]), "none yet"),
    el("h2", {}, "Log"), log,
    el("details", {}, el("summary", {}, "specification"), json(j.spec)),
    j.result ? el("details", {}, el("summary", {}, "result"), json(j.result)) : "",
    el("details", {}, el("summary", {}, "events"), table(["at", "what", "who", "detail"], (j.events || []).map((e) => [when(e.at), e.kind, e.actor, JSON.stringify(e.detail)])))];
}
// The log as server-sent events: fetch rather than EventSource, which cannot send a header.
async function follow(id, pre) {
  if (stream) stream.abort();
  const mine = stream = new AbortController();
  try {
    const token = sessionStorage.getItem("mull-token");
    const r = await fetch(`/v1/jobs/${encodeURIComponent(id)}/logs?follow=1`, { headers: token ? { Authorization: "Bearer " + token } : {}, signal: mine.signal });
    if (!r.ok || !r.body) return;
    const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const below = pre.scrollTop + 30 >= pre.scrollHeight - pre.clientHeight, lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) {
        try {
          const d = JSON.parse(line.slice(5));
          if (typeof d.text === "string") pre.append(d.text.replace(/\n?$/, "\n"));
        } catch { /* the end event has no line */ }
      }
      while (pre.childNodes.length > 5000) pre.firstChild.remove();
      if (below) pre.scrollTop = pre.scrollHeight;
    }
  } catch { /* left the page, or the connection broke: the next visit reads on */ }
}
async function runsPage() {
  const r = await api("/v1/runs?limit=200");
  const chosen = new Set();
  return [el("h1", {}, "Runs"), el("p", {}, el("button", { type: "button", onclick: () => { if (chosen.size) location.hash = "#/compare?ids=" + [...chosen].join(","); } }, "compare the chosen")),
    table(["", "run", "name", "kind", "team", "state", "created", "parent"], r.runs.map((x) => {
      const id = x.id || x.job;
      return [el("input", { type: "checkbox", "aria-label": "choose run " + id, onchange: (e) => { if (e.target.checked) chosen.add(id); else chosen.delete(id); } }), jobLink(id), x.name, x.kind, x.team, state(x.state), when(x.created_at || x.started_at), x.parent ? JSON.stringify(x.parent).slice(0, 60) : ""];
    }), "no run yet")];
}
async function comparePage(query) {
  const ids = (query.get("ids") || "").split(",").filter(Boolean).slice(0, 4);
  const runs = await Promise.all(ids.map((i) => api("/v1/runs/" + encodeURIComponent(i))));
  const metrics = await Promise.all(ids.map((i) => api(`/v1/jobs/${encodeURIComponent(i)}/metrics?limit=100000`)));
  const maps = metrics.map((m) => byKey(m.points || m.metrics || []));
  const keys = [...new Set(maps.flatMap((m) => [...m.keys()]))].sort();
  const flat = (o, at, out) => { for (const k in o || {}) { const v = o[k]; if (v && typeof v === "object" && !Array.isArray(v)) flat(v, at + k + ".", out); else out[at + k] = JSON.stringify(v); } return out; };
  const configs = runs.map((r) => flat(r.config, "", {}));
  const differ = [...new Set(configs.flatMap((c) => Object.keys(c)))].sort().filter((k) => new Set(configs.map((c) => c[k])).size > 1);
  return [el("h1", {}, "Compare"), el("p", {}, ids.map((id, i) => [el("span", { class: "c" + i }, "■ "), jobLink(id, `${id} ${runs[i].name}`), " "])),
    el("div", { class: "plots" }, keys.map((k) => plot(k, ids.map((id, i) => ({ name: id, points: maps[i].get(k) || [] })))).filter(Boolean)),
    el("h2", {}, "Last values"), table(["metric", ...ids.map((i) => "#" + i)], keys.map((k) => [k, ...runs.map((r) => num(((r.metrics || {})[k] || {}).last))])),
    el("h2", {}, "What differs in the configuration"), table(["key", ...ids], differ.map((k) => [k, ...configs.map((c) => c[k] ?? "")]), "nothing")];
}
async function nodesPage() {
  const r = await api("/v1/nodes");
  return [el("h1", {}, "Nodes"), table(["node", "state", "devices", "running", "labels", "last seen", "version"], r.nodes.map((n) => [n.name, el("span", {}, state(n.state), n.quarantine ? ` quarantined: ${n.quarantine}` : "", (n.maintenance || []).length ? " maintenance planned" : ""), `${(n.devices || []).length}: ` + [...new Set((n.devices || []).map((d) => d.name || d.kind))].join(", "), (n.running || []).map((x) => [jobLink(x.job), " "]), Object.entries(n.labels || {}).map(([k, v]) => v === "" || v === true ? k : `${k}=${v}`).join(" "), when(n.last_seen), n.version || ""]), "no worker has come yet")];
}
async function teamsPage() {
  const r = await api("/v1/teams");
  return [el("h1", {}, "Teams"), table(["team", "parent", "#weight", "quota", "#running GPUs", "#running slots", "#borrowed", "#pending", "#share of use"], r.teams.map((t) => [t.name, t.parent || "", num(t.weight), t.nominal === null ? "none" : el("span", {}, el("meter", { min: 0, max: Math.max(t.nominal, t.running_gpus, 1), high: t.nominal, value: t.running_gpus, "aria-label": "GPUs of the quota in use" }), ` ${t.running_gpus} of ${t.nominal}`), num(t.running_gpus), num(t.running_slots), num(t.borrowed), num(t.pending), (100 * t.used_share).toFixed(1) + " %"]))];
}
async function auditPage(query) {
  const r = await api(`/v1/audit?limit=200&cursor=${encodeURIComponent(query.get("cursor") || "0")}`);
  return [el("h1", {}, "Audit"), table(["at", "who", "what", "job", "detail"], r.events.map((e) => [when(e.at), e.actor, e.kind, e.job ? jobLink(e.job) : "", JSON.stringify(e.detail)])),
    r.next_cursor ? el("p", {}, el("a", { href: "#/audit?cursor=" + r.next_cursor }, "older")) : ""];
}
async function signIn() {
  const field = el("input", { type: "password", autocomplete: "off", size: 48, required: true, id: "token" });
  return [el("h1", {}, "Sign in"), el("p", {}, "An admin makes a token with mull token create."),
    el("form", { onsubmit: async (e) => {
      e.preventDefault();
      sessionStorage.setItem("mull-token", field.value.trim());
      try { await identify(); location.hash = "#/queue"; draw(true); } catch (x) { sessionStorage.removeItem("mull-token"); say(x.message); }
    } }, el("label", {}, "token", field), el("button", {}, "sign in"))];
}

const PAGES = { queue: queuePage, jobs: jobsPage, job: jobPage, runs: runsPage, compare: comparePage, nodes: nodesPage, teams: teamsPage, audit: auditPage, "sign-in": signIn };
const STILL = new Set(["compare", "sign-in", "runs", "audit"]); // not drawn again by the clock: forms and choices live there
let who = null;

async function identify() {
  who = await api("/v1/whoami");
  $("who").textContent = who.user + (who.team ? ", team " + who.team : "") + ", " + who.role;
  $("out").hidden = !sessionStorage.getItem("mull-token");
}
function navigation(current) {
  const names = ["queue", "jobs", "runs", "nodes", "teams", ...(who && who.role === "admin" ? ["audit"] : [])];
  $("nav").replaceChildren(...(who ? names : []).map((n) => el("a", { href: "#/" + n, "aria-current": n === current || (n === "jobs" && current === "job") || (n === "runs" && current === "compare") ? "page" : null }, n)));
}
// fresh: another page was asked for; else the same one again with new data.
async function draw(fresh) {
  const mine = ++turn;
  clearTimeout(timer);
  let [path, search] = (location.hash.slice(2) || "queue").split("?");
  let [name, arg] = path.split("/");
  if (!PAGES[name]) name = "queue";
  try {
    if (!who && name !== "sign-in") await identify();
    if (fresh && name !== "job" && stream) { stream.abort(); shown = { id: null, pre: null }; }
    const at = shown.pre ? shown.pre.scrollTop : 0, opened = [...main.querySelectorAll("details")].map((d) => d.open);
    const nodes = await PAGES[name](new URLSearchParams(search || ""), arg && decodeURIComponent(arg));
    if (mine !== turn) return;
    navigation(name);
    main.replaceChildren(...nodes.flat(9).filter((n) => n !== ""));
    if ($("log")) $("log").scrollTop = at; // a moved node forgets it
    if (!fresh) main.querySelectorAll("details").forEach((d, i) => { d.open = !!opened[i]; });
    document.title = name + (arg ? " " + arg : "") + " – mull";
    if (fresh) { main.focus({ preventScroll: true }); say(""); }
  } catch (e) {
    if (mine !== turn) return;
    if (e.status === 401 || (e.status === 403 && !who)) { who = null; navigation(""); main.replaceChildren(...(await signIn()).flat(9)); if (sessionStorage.getItem("mull-token")) say(e.message); return; }
    say(e instanceof Refused ? e.message : "the server does not answer; trying again");
    if (fresh && e.status) main.replaceChildren(el("h1", {}, name), el("p", {}, e.message));
  }
  if (!STILL.has(name)) timer = setTimeout(() => document.hidden ? (timer = setTimeout(() => draw(false), 5000)) : draw(false), 5000);
}
$("out").addEventListener("click", () => { sessionStorage.removeItem("mull-token"); who = null; $("who").textContent = ""; $("out").hidden = true; location.hash = "#/sign-in"; draw(true); });
addEventListener("hashchange", () => draw(true));
draw(true);
})();
