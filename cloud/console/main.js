// Follow the fleet: ask for the token once, load everything, then wait for the next change, for ever.

import { Refused, ask, forgetToken, keepToken, takeToken } from "./api.js";
import { showAttention, showDevices, showFigures, showModels, summary } from "./fleet.js";
import { openPanel, refreshPanel, shownDevice } from "./panel.js";
import { showRollouts } from "./rollouts.js";
import { ago } from "./words.js";

const WAIT_S = 25;
const REST_MS = 500; // between two looks, so that a busy fleet does not keep the page busy
const at = (id) => document.getElementById(id);

const versions = new Map();
let devices = [];
let saidLast = "";

async function load() {
  const [newest, found, rollouts] = await Promise.all([ask("/v1/models"), ask("/v1/devices"), ask("/v1/rollouts")]);
  const models = await Promise.all(newest.map(versionsOf));
  devices = found;
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

// Versions never change, so a model is asked for again only when it has a newer one.
async function versionsOf({ model, version }) {
  if (versions.get(model)?.[0].version !== version) versions.set(model, (await ask(`/v1/models/${model}`)).reverse());
  return versions.get(model);
}

async function follow() {
  let seen = 0;
  let pause = 1000;
  for (;;) {
    try {
      const { number } = await ask(`/v1/changes?after=${seen}&wait_s=${seen ? WAIT_S : 0}`);
      await load();
      seen = number;
      pause = 1000;
      connection("live", "live");
      await sleep(REST_MS);
    } catch (failed) {
      if (failed instanceof Refused) return askForToken(failed.message);
      connection("lost", `no answer from the cloud; trying again in ${pause / 1000} s`);
      await sleep(pause);
      pause = Math.min(pause * 2, 16000);
    }
  }
}

const named = (name) => devices.find((device) => device.device === name);

async function act(rollout, verb) {
  const question = `End rollout ${rollout}? Open offers are withdrawn; who runs the version keeps it.`;
  if (verb === "abort" && !confirm(question)) return;
  try {
    await ask(`/v1/rollouts/${rollout}/${verb}`, { method: "POST" });
    await load();
  } catch (failed) {
    announce(failed.message);
    connection("lost", failed.message);
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

// Said aloud only when it differs: a screen reader shall not repeat itself every second.
function announce(text) {
  if (text !== saidLast) at("news").textContent = text;
  saidLast = text;
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
