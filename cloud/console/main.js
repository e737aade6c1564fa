// The main loop: ask for the token, load all data, then wait for the next change and repeat.

import { Unauthorized, request, forgetToken, keepToken, takeToken } from "./api.js";
import { showAttention, showDevices, showFigures, showModels, summary } from "./fleet.js";
import { openPanel, refreshPanel, shownDevice } from "./panel.js";
import { showRollouts } from "./rollouts.js";
import { ago } from "./words.js";

const WAIT_S = 25;
const PAUSE_MS = 500; // minimum time between two updates, which limits the load by a busy fleet
const at = (id) => document.getElementById(id);

const versions = new Map();
let devices = [];
let lastAnnouncement = "";

async function load() {
  const [newest, allDevices, rollouts] = await Promise.all([request("/v1/models"), request("/v1/devices"), request("/v1/rollouts")]);
  const models = await Promise.all(newest.map(versionsOf));
  devices = allDevices;
  const fleet = { devices, models, rollouts };
  showFigures(fleet);
  showAttention(fleet);
  showRollouts(rollouts);
  showDevices(devices);
  showModels(models);
  const shown = named(shownDevice());
  if (shown) refreshPanel(shown);
  announce(summary(fleet));
}

// Versions are immutable, so a model is requested again only when it has a newer one.
async function versionsOf({ model, version }) {
  if (versions.get(model)?.[0].version !== version) versions.set(model, (await request(`/v1/models/${model}`)).reverse());
  return versions.get(model);
}

async function follow() {
  let seen = 0;
  let pause = 1000;
  for (;;) {
    try {
      const { number } = await request(`/v1/changes?after=${seen}&wait_s=${seen ? WAIT_S : 0}`);
      await load();
      seen = number;
      pause = 1000;
      connection("live", "live");
      await sleep(PAUSE_MS);
    } catch (error) {
      if (error instanceof Unauthorized) return askForToken(error.message);
      connection("lost", `the cloud does not respond; next attempt in ${pause / 1000} s`);
      await sleep(pause);
      pause = Math.min(pause * 2, 16000);
    }
  }
}

const named = (name) => devices.find((device) => device.device === name);

async function act(rollout, verb) {
  const question = `Abort rollout ${rollout}? Open offers are withdrawn. Devices that run the version keep it.`;
  if (verb === "abort" && !confirm(question)) return;
  try {
    await request(`/v1/rollouts/${rollout}/${verb}`, { method: "POST" });
    await load();
  } catch (error) {
    announce(error.message);
    connection("lost", error.message);
  }
}

function askForToken(problem) {
  forgetToken();
  at("fleet").hidden = true;
  at("ask").hidden = false;
  at("ask-error").textContent = problem;
  connection("idle", "");
  at("token").focus();
}

function start() {
  at("ask").hidden = true;
  at("fleet").hidden = false;
  connection("idle", "connecting");
  follow();
}

function connection(state, text) {
  at("connection").dataset.state = state;
  if (at("connection").textContent !== text) at("connection").textContent = text;
}

// For screen readers: announce only new text, so that it is not repeated at every update.
function announce(text) {
  if (text !== lastAnnouncement) at("news").textContent = text;
  lastAnnouncement = text;
}

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button?.dataset.device) openPanel(named(button.dataset.device));
  if (button?.dataset.verb) act(button.dataset.rollout, button.dataset.verb);
});

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(at("token").value.trim());
  at("token").value = "";
  start();
});

setInterval(() => {
  for (const moment of document.querySelectorAll("time[datetime]")) moment.textContent = ago(moment.dateTime);
}, 5000);

if (takeToken()) start();
else askForToken("");
