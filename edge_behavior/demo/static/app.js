// The page's state and events: asks the server, hands what it says to the view.

import * as clock from "./clock.js";
import * as view from "./view.js";

const PAUSE = 120; // milliseconds without a change before a prediction is asked for
const find = (id) => document.getElementById(id);

let bundle;
let state;
let when;
let ranks = null; // label -> rank of the prediction before
let shown = []; // labels of the suggestions shown
let costs = [];
let asked = 0;
let timer = null; // set while a prediction waits for changes to end
let open = 0; // calls under way that end in a prediction

class Refused extends Error {}
class Offline extends Error {}

async function call(name, body) {
  let response;
  try {
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    response = await fetch(`api/${name}`, { ...sent, headers: body === undefined ? {} : { "Content-Type": "application/json" } });
  } catch (error) {
    view.showOffline(true);
    throw new Offline(String(error));
  }
  view.showOffline(false);
  const said = await response.json();
  if (!response.ok) throw new Refused(said.hint ? `${said.error} (${said.hint})` : said.error);
  return said;
}

// Where the user is; null for a bundle whose prompts have no places.
const place = () => (bundle.places ? find("place").value : null);
const lastTime = () => (state.events.length ? clock.notBefore(state.events.at(-1).time) : null);

function settings() {
  const byPrecision = find("rule-precision").checked && find("precision").value !== "";
  return {
    threshold: Number(find("threshold").value) / 100,
    precision: byPrecision ? Number(find("precision").value) : null,
    coverage: find("coverage").value === "" ? null : Number(find("coverage").value),
    source: find("source").value,
    balance: Number(find("balance").value),
    exhaustive: find("exhaustive").checked,
  };
}

// ---- time and place

function showTime() {
  find("when").value = when;
  const slider = find("slider");
  const last = lastTime();
  slider.min = last && clock.dayOf(last) === clock.dayOf(when) ? clock.minuteOf(last) : 0;
  slider.value = clock.minuteOf(when);
  find("slider-from").textContent = last && slider.min > 0 ? `${clock.clockOf(last)}, the last event` : "00:00";
  slider.setAttribute("aria-valuetext", clock.clockOf(when));
  view.showClock(when, place());
}

function setTime(next) {
  when = next;
  showTime();
  soon();
}

// Whether the field holds a whole time. Where it does not, nothing is asked or added: not for the time before either.
function timely() {
  if (clock.valid(find("when").value)) return true;
  shown = [];
  view.showProblem("The time is incomplete: fill in day, month, year, hour and minute.", "when");
  view.showNoPrediction("the reason stands under 'Now'.");
  return false;
}

// ---- predictions

function showBusy(change = 0) {
  open += change;
  find("suggestions").setAttribute("aria-busy", String(open > 0 || timer !== null));
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(predict, PAUSE);
  showBusy();
}

async function predict() {
  clearTimeout(timer);
  timer = null;
  showBusy(1);
  try {
    await ask();
  } finally {
    showBusy(-1);
  }
}

async function ask() {
  const turn = ++asked;
  if (!timely()) return;
  const wanted = settings();
  try {
    const prediction = await call("predict", { when, place: place(), ...wanted });
    // A later question is under way: its answer counts.
    if (turn !== asked) return;
    view.showProblem("");
    view.showPrediction(prediction, wanted, ranks, bundle.labels.length);
    view.announce(prediction, wanted);
    shown = prediction.ranked.map((item) => item.behavior);
    ranks = new Map(shown.map((label, rank) => [label, rank]));
    costs = [...costs, prediction.tokens_evaluated].slice(-64);
    view.showCosts(costs);
  } catch (error) {
    if (turn !== asked) return;
    shown = [];
    if (error instanceof Refused) {
      view.showProblem(error.message, "when");
      view.showNoPrediction("the reason stands under 'Now'.");
    } else if (error instanceof Offline) view.showNoPrediction("edgeb does not answer.");
    else throw error;
  }
}

// ---- changes

function adopt(next) {
  state = next;
  view.showTimeline(state);
  view.names(find("places"), state.places);
}

async function change(name, body, { moves = false, field = null } = {}) {
  showBusy(1);
  try {
    adopt(await call(name, body));
    if (moves) {
      when = state.now;
      find("place").value = state.place ?? "";
      showTime();
    }
    await predict();
    return true;
  } catch (error) {
    if (error instanceof Refused) view.showProblem(error.message, field);
    else if (!(error instanceof Offline)) throw error;
    return false;
  } finally {
    showBusy(-1);
  }
}

function happened(behavior, accepted) {
  if (!timely()) return false;
  const body = { behavior, place: place(), when, accepted };
  return change("events", body, { field: accepted ? null : "behavior", moves: true });
}

// While a newer ranking is on its way the one shown is no longer what a key would be about.
const accept = (label) => open === 0 && label !== undefined && happened(label, true);
const dismiss = (label) => open === 0 && change("dismiss", { behavior: label });

// ---- wiring

const BALANCES = ["right most often", "rare behaviors found"];

function fillBalances() {
  const offered = bundle.sources[find("source").value];
  const before = find("balance").selectedIndex;
  view.options(
    find("balance"),
    offered.map(({ balance }, at) => [String(balance), `${BALANCES[at]} (τ ${balance})`]),
    String((offered[before] ?? offered[0]).balance),
  );
  find("balance-field").hidden = offered.length < 2;
  fillRules();
}

function fillRules() {
  const levels = bundle.sources[find("source").value][find("balance").selectedIndex];
  const precisions = levels.precisions.map(({ level, reached }) => [
    String(level),
    `${view.percent(level)}${reached ? "" : " (never)"}`,
  ]);
  const coverages = levels.coverages.map((level) => [String(level), view.percent(level)]);
  view.options(find("precision"), precisions.length ? precisions : [["", "not calibrated"]], find("precision").value);
  view.options(find("coverage"), [["", "off"], ...coverages], find("coverage").value);
  find("precision").disabled = find("rule-precision").disabled = precisions.length === 0;
  find("coverage").disabled = coverages.length === 0;
  if (precisions.length === 0) find("rule-threshold").checked = true;
  find("rule-note").textContent = precisions.length
    ? "Precision and prediction sets were measured on validation users when the bundle was exported."
    : "Not calibrated here: no target precision, no prediction sets.";
}

function onSuggestionKey(event) {
  const line = event.target.closest("li");
  if (!line) return;
  const lines = [...line.parentElement.children];
  const at = lines.indexOf(line);
  const target = {
    ArrowDown: lines[Math.min(at + 1, lines.length - 1)]?.querySelector(".pick"),
    ArrowUp: lines[Math.max(at - 1, 0)]?.querySelector(".pick"),
    Home: lines[0].querySelector(".pick"),
    End: lines.at(-1).querySelector(".pick"),
    ArrowRight: line.querySelector(".dismiss"),
    ArrowLeft: line.querySelector(".pick"),
  }[event.key];
  if (target) {
    event.preventDefault();
    for (const other of lines) other.querySelector(".pick").tabIndex = -1;
    target.closest("li").querySelector(".pick").tabIndex = 0;
    target.focus();
  } else if (event.key === "Delete") {
    event.preventDefault();
    dismiss(line.dataset.behavior);
  }
}

function onDigit(event) {
  const typing = event.target.closest?.("input:not([type=range], [type=checkbox], [type=radio]), select, textarea");
  if (typing || event.ctrlKey || event.altKey || event.metaKey || event.repeat || !find("digits").checked) return;
  if (/^[1-9]$/.test(event.key)) accept(shown[Number(event.key) - 1]);
}

function wire() {
  find("place").addEventListener("input", () => (view.showClock(when, place()), soon()));
  find("when").addEventListener("input", () => {
    if (clock.valid(find("when").value)) setTime(find("when").value.slice(0, 16));
    else predict();
  });
  find("slider").addEventListener("input", () => setTime(clock.atMinute(when, Number(find("slider").value))));
  find("context").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await happened(find("behavior").value, false)) find("behavior").value = "";
    find("behavior").focus();
  });
  find("suggestions").addEventListener("click", (event) => {
    const line = event.target.closest("li");
    if (event.target.closest(".dismiss")) dismiss(line.dataset.behavior);
    else if (event.target.closest(".pick")) accept(line.dataset.behavior);
  });
  find("suggestions").addEventListener("keydown", onSuggestionKey);
  document.addEventListener("keydown", onDigit);
  find("threshold").addEventListener("input", () => {
    find("threshold-shown").textContent = `${find("threshold").value} %`;
    find("rule-threshold").checked = true;
    soon();
  });
  find("precision").addEventListener("change", () => (find("rule-precision").checked = true));
  find("source").addEventListener("change", fillBalances);
  find("balance").addEventListener("change", fillRules);
  find("rule").addEventListener("change", soon);
  find("rule").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(view.showLatest).observe(find("day-scroll"));
  find("restore").addEventListener("click", () => change("restore", {}));
  find("undo").addEventListener("click", () => change("undo", {}, { moves: true }));
  find("start-over").addEventListener("click", () => ((ranks = null), (costs = []), change("start-over", {}, { moves: true })));
  find("make-up").addEventListener("click", () => timely() && change("made-up-day", { day: clock.dayOf(when) }, { moves: true }));
}

async function start() {
  [bundle, state] = await Promise.all([call("bundle"), call("state")]);
  view.showBundle(bundle);
  view.names(find("labels"), bundle.labels);
  view.options(find("source"), Object.keys(bundle.sources).map((source) => [source, source]), bundle.source);
  fillBalances();
  when = state.now;
  find("place").value = state.place ?? "";
  adopt(state);
  showTime();
  wire();
  await predict();
}

await start();
