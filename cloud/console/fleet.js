// The figures, problems, devices and models of the page.

import { element, show, table } from "./dom.js";
import { ago, count, kindOf, size, workloadState, words, workloadsOf } from "./words.js";

const at = (id) => document.getElementById(id);

export const pill = (state, kind = kindOf(state)) => element("span", { class: `state ${kind}` }, words(state));
export const when = (instant) => element("time", instant ? { datetime: instant } : {}, ago(instant));
export const runs = (running) => (running ? `${running.model}:${running.version}` : null);

export function showFigures({ devices, models, rollouts }) {
  const online = devices.filter((device) => device.online).length;
  const active = rollouts.filter((rollout) => rollout.state === "running").length;
  const problemCount = problems({ devices, rollouts }).length;
  show(
    at("figures"),
    tile(`${online} / ${devices.length}`, "devices online"),
    tile(active, active === 1 ? "active rollout" : "active rollouts"),
    tile(models.length, models.length === 1 ? "model" : "models"),
    tile(problemCount, problemCount === 1 ? "problem" : "problems", problemCount > 0),
  );
}

export function showAttention(fleet) {
  const list = problems(fleet);
  at("attention").hidden = !list.length;
  show(at("attention-list"), ...list.map((each) => element(
    "li", {},
    each.device ? deviceButton(each.device) : element("strong", {}, each.title),
    each.workload ? element("strong", {}, each.workload) : null,
    pill(each.state),
    element("span", {}, each.reason || "no reason given"),
  )));
}

export function showDevices(devices) {
  const columns = ["device", "state", "running", "profile", "labels", "last seen"];
  const rows = devices.map((device) => [
    deviceButton(device.device),
    workloadsOf(device).flatMap(stateCell),
    workloadsOf(device).flatMap(runningCell),
    device.profile || null,
    labels(device.labels),
    presence(device),
  ]);
  show(at("device-table"), table(columns, rows, "No devices yet. Create an enrolment token with: edgewright devices token"));
}

export function showModels(models) {
  const columns = ["model", "version", "variants", "size", "published"];
  const rows = models.flat().map((version) => [
    element("strong", {}, version.model),
    `v${version.version}`,
    labels(Object.fromEntries(version.variants.map((variant) => [variant, ""]))),
    size(version.size_bytes),
    when(version.published_at),
  ]);
  show(at("model-table"), table(columns, rows, "No models yet. Publish a package with: edgewright publish"));
}

export function presence(device) {
  const status = device.revoked ? "revoked" : device.online ? "online" : "offline";
  return [element("span", { class: `dot${device.online ? " is-online" : ""}` }, status), element("small", {}, when(device.last_seen_at))];
}

export function labels(pairs) {
  const names = Object.keys(pairs).sort();
  if (!names.length) return null;
  const tags = names.map((name) => element("span", { class: "label" }, pairs[name] ? `${name}=${pairs[name]}` : name));
  return element("span", { class: "labels" }, ...tags);
}

export function deviceButton(name) {
  return element("button", { type: "button", class: "link", "data-device": name }, name);
}

// The last rollout of each workload, if it was halted, and every workload of a device that failed.
function problems({ devices, rollouts }) {
  const ended = rollouts.filter((rollout) => rollout.state !== "completed" && rollout.state !== "aborted");
  const isNewest = (rollout) => ended.find((other) => workloadOf(other) === workloadOf(rollout)) === rollout;
  const halted = ended.filter((rollout) => rollout.state === "halted" && isNewest(rollout));
  const failed = devices.filter((device) => !device.revoked).flatMap((device) =>
    workloadsOf(device).filter((each) => kindOf(workloadState(each)) === "failed").map((each) => ({ ...each, device: device.device })));
  return [
    ...halted.map((rollout) => ({
      title: `Rollout of ${rollout.model}:${rollout.version}`, state: rollout.state, reason: rollout.reason,
    })),
    ...failed.map((each) => ({
      device: each.device, workload: each.workload, state: workloadState(each), reason: each.reported.reason,
    })),
  ];
}

const workloadOf = ({ workload, model }) => workload || model;

function tile(figure, caption, isFailed = false) {
  return element("li", { class: isFailed ? "is-failed" : null }, element("strong", {}, String(figure)), element("span", {}, caption));
}

function stateCell(each) {
  const reason = each.reported?.reason;
  const state = workloadState(each);
  return [workloadName(each), pill(state), reason && state !== "offered" ? element("small", {}, reason) : null];
}

function runningCell(each) {
  const running = each.reported?.running;
  if (!running) return [];
  return [workloadName(each), element("strong", {}, runs(running)), element("small", {}, `${running.variant} on ${running.backend}`)];
}

// The name of a workload where a device has several.
const workloadName = ({ workload }) => (workload ? element("small", { class: "workload" }, workload) : null);

export const summary = ({ devices, rollouts }) =>
  [count(devices.filter((device) => device.online).length, "device online", "devices online"),
    ...rollouts.slice(0, 1).map((rollout) => `rollout ${rollout.rollout} ${words(rollout.state)}: ${rollout.reason}`)].join("; ");
