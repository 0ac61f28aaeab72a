"use strict";
// Draws the picture the server sends (/api/events). Names come from the cluster: they are only ever set as text.

const ACTIVITIES = { queued: "in its queue", placing: "waiting for nodes", staging: "waiting for data", starting: "starting",
  training: "training", lost: "done again after a failure" };
const byId = (id) => document.getElementById(id);
let latest = null, focused = null;

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) { bytes /= 1024; unit++; }
  return (unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)) + " " + units[unit];
}

function duration(seconds) {
  const whole = Math.round(seconds);
  for (const [long, name, short, other] of [[86400, "d", 3600, "h"], [3600, "h", 60, "m"], [60, "m", 1, "s"]]) {
    if (whole >= long) {
      const rest = Math.floor(whole % long / short);
      return Math.floor(whole / long) + name + (rest ? rest + other : "");
    }
  }
  return whole + "s";
}

// Only when it changed: a screen reader says again what is set again.
function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

const percent = (share) => Math.round(100 * share) + " %";

function bar(parts, label) {
  const total = parts.reduce((sum, part) => sum + part.value, 0);
  const box = make("div", undefined, { class: "bar", role: "img", "aria-label": label });
  for (const part of parts) {
    if (!part.value) continue;
    const piece = make("span", undefined, { title: part.title });
    piece.style.width = 100 * part.value / (part.of ?? total) + "%";
    piece.style.background = part.color;
    box.append(piece);
  }
  return box;
}

function fill(id, rows) {
  const body = byId(id).tBodies[0];
  const heads = [...byId(id).tHead.rows[0].cells].map((cell) => cell.textContent);
  body.replaceChildren(...rows.map((cells) => {
    const row = make("tr");
    cells.forEach((cell, column) => {
      const td = make("td", undefined, { "data-name": heads[column], class: heads[column] === "why" ? "why" : "" });
      td.append(...(Array.isArray(cell) ? cell : [cell ?? ""]));
      row.append(td);
    });
    return row;
  }));
}

function drawMap(picture) {
  const wanted = (text, filter) => text.toLowerCase().includes(filter.trim().toLowerCase());
  // The server looks among all there are; this is for the moment until it has answered.
  const nodes = picture.nodes.filter((node) => wanted(node.name, byId("node-filter").value));
  const datasets = picture.datasets.filter((one) => wanted(one.key, byId("dataset-filter").value));
  const head = make("tr");
  head.append(make("td"));
  for (const node of nodes) {
    const th = make("th", undefined, { scope: "col", title: node.name });
    th.append(make("span", node.name));
    head.append(th);
  }
  const body = make("tbody");
  datasets.forEach((dataset, y) => {
    const row = make("tr");
    row.append(make("th", dataset.key, { scope: "row", title: `${dataset.phase}, ${size(dataset.totalBytes)} in ${dataset.files} files` }));
    nodes.forEach((node, x) => {
      const media = node.resident[dataset.key] ?? {};
      const held = Object.entries(media).filter(([, bytes]) => bytes > 0);
      const bytes = held.reduce((sum, [, part]) => sum + part, 0);
      const share = dataset.totalBytes ? Math.min(1, bytes / dataset.totalBytes) : 0;
      const said = held.length
        ? `${dataset.key} on ${node.name}: ${held.map(([medium, part]) => `${size(part)} ${medium}`).join(", ")}, ${percent(share)} of it`
        : `${dataset.key} on ${node.name}: nothing`;
      const cell = make("td", undefined, { tabindex: "-1", role: "gridcell", "aria-label": said, title: said, "data-at": `${x},${y}` });
      if (bytes) {
        const [most] = held.reduce((best, one) => (one[1] > best[1] ? one : best));
        cell.style.background = `rgba(var(--${most}), ${0.25 + 0.75 * share})`;
      }
      row.append(cell);
    });
    body.append(row);
  });
  const thead = make("thead");
  thead.append(head);
  byId("map").replaceChildren(thead, body);
  const hidden = [];
  for (const name of ["nodes", "datasets"]) if (picture.more[name]) hidden.push(`${picture.more[name]} more ${name}`);
  const looking = byId("dataset-filter").value.trim() || byId("node-filter").value.trim();
  byId("map-note").textContent = !datasets.length || !nodes.length ? (looking ? "None has that in its name." : "No datasets yet.")
    : hidden.length ? `Not shown: ${hidden.join(", ")}; name a part of them above.` : "";
  const kept = focused && byId("map").querySelector(`[data-at="${focused}"]`);
  const entry = kept ?? byId("map").querySelector("td[data-at]");
  if (entry) entry.tabIndex = 0;
  if (kept && document.activeElement === document.body) kept.focus();
}

function drawJobs(picture) {
  fill("jobs", picture.jobs.map((job) => {
    const parts = job.parts.map((part) => ({ value: part.seconds, color: `var(--${part.activity})`,
      title: `try ${part.attempt}: ${duration(part.seconds)} ${ACTIVITIES[part.activity]}` }));
    const state = make("span", job.state, { class: job.state === "Failed" ? "bad" : "" });
    const resumed = job.resumeStep === null ? "" : ` (from step ${job.resumeStep})`;
    return [job.key, state, `${job.attempt}${resumed}`, job.goodput === null ? "–" : percent(job.goodput),
      parts.length ? bar(parts, parts.map((part) => part.title).join("; ")) : "", job.message || job.reason];
  }));
  const legend = byId("activities");
  legend.replaceChildren();
  for (const [name, said] of Object.entries(ACTIVITIES)) {
    const mark = make("i", undefined, { class: "a" });
    mark.style.background = `var(--${name})`;
    legend.append(mark, said);
  }
  if (!picture.jobs.length) legend.textContent = "No jobs.";
}

function drawCaches(picture) {
  const media = ["MEM", "SSD", "HDD"].filter((medium) => picture.nodes.some((node) => node.tiers.some((tier) => tier.medium === medium)));
  const head = make("tr");
  head.append(make("th", "node"), ...media.map((medium) => make("th", medium)));
  byId("nodes").tHead.replaceChildren(head);
  fill("nodes", picture.nodes.map((node) => [node.isServing ? node.name : `${node.name} (no worker)`, ...media.map((medium) => {
    const tiers = node.tiers.filter((tier) => tier.medium === medium);
    if (!tiers.length) return "";
    const used = tiers.reduce((sum, tier) => sum + tier.usedBytes, 0), room = tiers.reduce((sum, tier) => sum + tier.capacityBytes, 0);
    const said = `${size(used)} of ${size(room)}`;
    return [bar([{ value: used, of: room || 1, color: `rgb(var(--${medium}))`, title: said }], said), make("span", said, { class: "said" })];
  })]));
}

function draw(answer) {
  latest = answer;
  const picture = answer.picture;
  const all = picture.totals;
  say("summary", `${all.serving} of ${all.nodes} caches serve, ${size(all.usedBytes)} of ${size(all.capacityBytes)} used; `
    + `${all.jobs} jobs, ${all.waiting} waiting`);
  say("state", answer.trouble || (answer.missing.length ? `not shown by the API server: ${answer.missing.join(", ")}` : ""));
  byId("waiting-section").hidden = !picture.waiting.length;
  fill("waiting", picture.waiting.map((row) => [row.key, row.kind, duration(row.sinceSeconds), row.why]));
  byId("held-section").hidden = !picture.held.length;
  fill("held", picture.held.map((row) => [row.key, `${row.files}`, size(row.bytes)]));
  drawMap(picture);
  drawJobs(picture);
  fill("loads", picture.loads.map((load) => {
    const said = `${size(load.loadedBytes)} of ${size(load.totalBytes)}`;
    return [load.key, load.dataset, load.phase,
      [bar([{ value: load.loadedBytes, of: load.totalBytes || 1, color: "var(--staging)", title: said }], said), make("span", said, { class: "said" })],
      load.etaSeconds === null ? "" : duration(load.etaSeconds)];
  }));
  drawCaches(picture);
  const from = picture.arrived;
  const sources = [[from.localBytes, "on the node itself", "var(--training)"], [from.peerBytes, "from peers", "var(--staging)"],
    [from.originBytes, "from under stores", "var(--placing)"]];
  const arrived = sources.reduce((sum, [bytes]) => sum + bytes, 0);
  const said = sources.map(([bytes, name]) => `${size(bytes)} ${name}`).join(", ");
  byId("bytes-note").textContent = arrived ? `Expected when ${from.pods} pods were placed: ${said}.` : "No placed pod names data.";
  const drawn = bar(sources.map(([value, name, color]) => ({ value, color, title: `${size(value)} ${name}` })), said);
  byId("bytes").replaceChildren(...drawn.childNodes);
  byId("bytes").setAttribute("aria-label", said);
}

byId("filters").addEventListener("submit", (event) => event.preventDefault());
let later = 0;
byId("filters").addEventListener("input", () => {
  if (latest) drawMap(latest.picture);
  clearTimeout(later);
  later = setTimeout(listen, 300);
});
byId("map").addEventListener("focusin", (event) => {
  if (!event.target.dataset.at) return;
  byId("map").querySelectorAll('td[tabindex="0"]').forEach((cell) => { cell.tabIndex = -1; });
  event.target.tabIndex = 0;
  focused = event.target.dataset.at;
  byId("cell").textContent = event.target.title;
});
byId("map").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !event.target.dataset.at) return;
  const [x, y] = event.target.dataset.at.split(",").map(Number);
  const next = byId("map").querySelector(`[data-at="${x + step[0]},${y + step[1]}"]`);
  if (next) next.focus();
  event.preventDefault();
});

let source = null;
function listen() {
  if (source) source.close();
  const query = new URLSearchParams({ nodes: byId("node-filter").value, datasets: byId("dataset-filter").value });
  source = new EventSource(`/api/events?${query}`);
  source.onmessage = (event) => draw(JSON.parse(event.data));
  source.onerror = () => say("state", "the dashboard does not answer; asking again…");
}
listen();
