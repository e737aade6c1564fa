// Rollouts, newest first: their waves, the state of each device, and the reason of a halt.

import { element, show } from "./dom.js";
import { pill, when } from "./fleet.js";
import { count, kindOf, words } from "./words.js";

const CHIPS_PER_WAVE = 40;
const SHOWN = 8;

export function showRollouts(rollouts) {
  const list = document.getElementById("rollout-list");
  if (!rollouts.length) {
    show(list, element("p", { class: "card empty" }, "No rollouts yet. Create one with: edgewright rollouts create MODEL"));
    return;
  }
  const cards = rollouts.slice(0, SHOWN).map((rollout) => card(rollout));
  const older = rollouts.length - SHOWN;
  show(list, ...cards, older > 0 ? element("p", { class: "faint" }, `and ${count(older, "older rollout", "older rollouts")}`) : "");
}

function card(rollout) {
  const waves = inWaves(rollout.devices);
  return element(
    "article",
    { class: `card rollout${rollout.state === "halted" ? " is-halted" : ""}`, "aria-label": `Rollout ${rollout.rollout}` },
    element(
      "div", { class: "rollout-head" },
      element("h3", {}, `${rollout.model}:${rollout.version}`),
      pill(rollout.state, rollout.state === "running" ? "active" : undefined), // a running rollout has not succeeded yet
      element("span", { class: "faint" }, `rollout ${rollout.rollout}${ofWorkload(rollout)}, `, when(rollout.created_at)),
      actions(rollout),
    ),
    element("p", { class: "reason" }, rollout.reason),
    element("div", { class: "waves" }, ...[...waves].map(([wave, devices]) => box(rollout, wave, devices, waves.size))),
  );
}

const ofWorkload = ({ workload, model }) => (workload && workload !== model ? ` of workload ${workload}` : "");

function box(rollout, wave, devices, total) {
  const running = devices.filter((device) => device.state === "running").length;
  const failing = devices.some((device) => kindOf(device.state) === "failed");
  const stage = wave > rollout.wave ? " is-pending" : wave === rollout.wave && rollout.state === "running" ? " is-open" : "";
  const shown = devices.slice(0, CHIPS_PER_WAVE).map((device) => chip(device));
  const more = devices.length - CHIPS_PER_WAVE;
  return element(
    "section",
    { class: `wave${stage}${failing ? " is-failing" : ""}`, "aria-label": `Wave ${wave + 1} of ${total}` },
    element("p", { class: "wave-head" }, element("b", {}, `Wave ${wave + 1}`), `${running} of ${devices.length} running`),
    element("progress", { max: devices.length, value: running, "aria-label": `${running} of ${devices.length} running` }),
    element("div", { class: "chips" }, ...shown, more > 0 ? element("span", { class: "faint" }, `and ${more} more`) : null),
  );
}

function chip(device) {
  const state = device.desired_number === null ? "not offered yet" : words(device.state);
  const kind = device.desired_number === null ? "pending" : kindOf(device.state);
  const description = device.reason ? `${state}: ${device.reason}` : state;
  const attributes = {
    type: "button", class: `state chip ${kind}`, title: description, "aria-label": `${device.device}, ${description}`,
    "data-device": device.device,
  };
  return element("button", attributes, device.device);
}

function actions(rollout) {
  const verbs = { running: ["pause", "abort"], paused: ["resume", "abort"] }[rollout.state];
  if (!verbs) return null;
  const buttons = verbs.map((verb) => element(
    "button",
    { type: "button", class: verb === "abort" ? "quiet danger" : "quiet", "data-verb": verb, "data-rollout": rollout.rollout },
    verb[0].toUpperCase() + verb.slice(1),
  ));
  return element("span", { class: "actions" }, ...buttons);
}

function inWaves(devices) {
  const waves = new Map();
  for (const device of devices) waves.set(device.wave, [...(waves.get(device.wave) ?? []), device]);
  return waves;
}
