// The details of one device: its state, the reasons for its variant, and sparklines of its measurements.

import { request } from "./api.js";
import { element, show } from "./dom.js";
import { labels, pill, presence, runs, when } from "./fleet.js";
import { figure, size, workloadState, workloadsOf } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const FIRST = [/latency/, /rss|memory/];
const CURVES = 6;

const panel = document.getElementById("panel");
let shown = null;

export function openPanel(device) {
  if (!device) return;
  if (shown !== device.device) show(document.getElementById("curves"));
  shown = device.device;
  refreshPanel(device);
  if (!panel.open) panel.showModal();
}

export const shownDevice = () => (panel.open ? shown : null);

export async function refreshPanel(device) {
  document.getElementById("panel-title").textContent = device.device;
  show(document.getElementById("facts"), ...workloadsOf(device).flatMap(workloadFacts), ...facts(device));
  const curves = document.getElementById("curves");
  try {
    const measurements = await request(`/v1/telemetry?device=${encodeURIComponent(device.device)}&limit=2000`);
    if (shown === device.device) show(curves, ...sparklines(measurements));
  } catch (error) {
    show(curves, element("p", { class: "problem" }, error.message));
  }
}

panel.addEventListener("click", (event) => event.target === panel && panel.close());
document.getElementById("panel-close").addEventListener("click", () => panel.close());

function workloadFacts(each) {
  const { workload, desired, reported } = each;
  const running = reported?.running;
  const precision = running && running.precision !== running.variant ? ` (${running.precision})` : "";
  return [
    workload ? element("h3", {}, `Workload ${workload}`) : null,
    list([
      ["State", pill(workloadState(each))],
      ["Reason", reported?.reason || null],
      ["Since", reported ? when(reported.since) : null],
      ["Attempt", reported && reported.attempt > 1 ? String(reported.attempt) : null],
      ["Next attempt", reported?.next_retry_at ? new Date(reported.next_retry_at).toLocaleTimeString() : null],
      ["Desired", desired ? `${desired.model}:${desired.version} (desired state ${desired.desired_number})` : null],
      ["Running", running ? `${runs(running)}, ${running.variant}${precision} on ${running.backend}` : "nothing"],
      ["Pulled", reported?.bytes_pulled ? size(reported.bytes_pulled) : null],
    ]),
    ...choice(reported),
  ];
}

function facts(device) {
  return [
    workloadsOf(device).length > 1 ? element("h3", {}, "Device") : null,
    list([
      ["Presence", element("span", { class: "presence" }, ...presence(device))],
      ["Profile", device.profile || "unknown"],
      ["Labels", labels(device.labels)],
      ["Agent", device.reported?.agent_version || null],
      ["Enrolled", when(device.enrolled_at)],
    ]),
  ];
}

function list(rows) {
  const present = rows.filter(([, content]) => content !== null);
  return element("dl", { class: "facts" }, ...present.flatMap(([name, content]) => [element("dt", {}, name), element("dd", {}, content)]));
}

function choice(reported) {
  if (!reported?.choice?.length) return [];
  const sentences = reported.choice.map((sentence) => element("li", {}, sentence));
  return [element("h3", {}, "Why this variant"), element("ul", { class: "choice" }, ...sentences)];
}

function sparklines(measurements) {
  const series = new Map();
  for (const each of measurements) {
    const name = [each.name, ...Object.values(each.labels ?? {})].join(" ");
    if (!series.has(name)) series.set(name, { name, unit: each.unit, values: [] });
    series.get(name).values.push(each.value);
  }
  const rank = ({ name }) => { const index = FIRST.findIndex((pattern) => pattern.test(name)); return index < 0 ? FIRST.length : index; };
  const ordered = [...series.values()].sort((one, other) => rank(one) - rank(other) || one.name.localeCompare(other.name));
  if (!ordered.length) return [element("p", { class: "faint" }, "No measurements yet.")];
  return ordered.slice(0, CURVES).map(sparkline);
}

function sparkline({ name, unit, values }) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const format = (value) => (unit === "bytes" ? size(value) : `${figure(value)} ${unit}`);
  const range = `${format(low)} to ${format(high)}`;
  const last = format(values.at(-1));
  return element(
    "figure", { class: "spark" },
    element("figcaption", {}, element("span", {}, name.replaceAll("_", " ")), element("strong", {}, last)),
    curve(values, low, high, `${name}: last ${last}, ${range}`),
    element("small", {}, `${range}, ${values.length} values`),
  );
}

function curve(values, low, high, label) {
  const svg = document.createElementNS(SVG, "svg");
  const line = document.createElementNS(SVG, "polyline");
  const spread = high - low || 1;
  const x = (index) => (values.length > 1 ? (index / (values.length - 1)) * 100 : 50);
  const points = values.map((value, index) => `${x(index).toFixed(2)},${(28 - ((value - low) / spread) * 26).toFixed(2)}`);
  line.setAttribute("points", (points.length > 1 ? points : [`0,15`, `100,15`]).join(" "));
  for (const [key, value] of Object.entries({ viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", "aria-label": label })) {
    svg.setAttribute(key, value);
  }
  svg.append(line);
  return svg;
}
