// From the server's answers to elements. All text from a bundle or a log is set as text, never as markup.

import * as clock from "./clock.js";

const KEPT_BARS = 32;
const find = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const hidden = (text) => element("span", { className: "hidden", textContent: text });
// A name in its own direction, so that right-to-left names do not reorder what stands beside them.
const name = (text, className = "") => element("bdi", { textContent: text, className, title: text });

export const percent = (p) => (p > 0 && p < 0.001 ? "<0.1 %" : `${(p * 100).toFixed(p < 0.0995 ? 1 : 0)} %`);

export function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, label]) => element("option", { value, textContent: label })));
  if (entries.some(([value]) => value === chosen)) select.value = chosen;
}

export function names(datalist, values) {
  datalist.replaceChildren(...values.map((value) => element("option", { value })));
}

export function showBundle(bundle) {
  const parts = [`${bundle.labels.length} behaviors`, bundle.architecture, bundle.quantization];
  find("bundle").replaceChildren(name(bundle.name), ` · ${parts.join(" · ")}`);
  find("base-model").replaceChildren(
    ...(bundle.base_model === null ? ["License of the base model: "] : ["Made from ", name(bundle.base_model), "; license: "]),
    bundle.license.join(" · "),
  );
  const context = bundle.places ? "time and place" : "time";
  find("place-field").hidden = find("where").hidden = !bundle.places;
  find("lead").textContent = `Change ${bundle.places ? "place or time" : "the time"}: the prediction follows.`;
  find("step-note").textContent =
    `An event happens at the ${context} above; then the clock moves on by ${bundle.step_minutes} minutes.`;
}

export function showClock(when, place) {
  find("clock").textContent = clock.clockOf(when);
  find("date").textContent = clock.longDay(when);
  if (place !== null) find("where").replaceChildren(name(place || "unknown"));
}

function timelineItem(event) {
  const about = element("span", { className: "about" }, ...(event.place === null ? [] : [name(event.place)]));
  if (event.origin === "accepted") about.append(element("span", { className: "tag", textContent: "suggestion" }));
  return element(
    "li",
    { className: event.origin === "made up" ? "made-up" : "" },
    element("time", { dateTime: event.time, textContent: clock.clockOf(event.time) }),
    element("span", { className: "what" }, name(event.behavior, "label"), about),
  );
}

export function showTimeline(state) {
  const items = [];
  let day = "";
  for (const event of state.events) {
    if (clock.dayOf(event.time) !== day) {
      day = clock.dayOf(event.time);
      items.push(element("li", { className: "divider", textContent: clock.shortDay(event.time) }));
    }
    items.push(timelineItem(event));
  }
  find("timeline").replaceChildren(...items);
  find("empty").hidden = state.events.length > 0;
  find("made-up").hidden = !state.events.some((event) => event.origin === "made up");
  find("earlier").hidden = state.earlier === 0;
  find("earlier").textContent = `${state.earlier} earlier events are not listed.`;
  find("undo").disabled = state.events.length === 0;
  find("start-over").disabled = state.events.length === 0 && state.begun === 0;
  const restore = find("restore");
  restore.hidden = state.dismissed.length === 0;
  restore.textContent = `Show ${state.dismissed.length} dismissed`;
  showLatest();
}

export function showLatest() {
  const box = find("day-scroll");
  box.scrollTop = box.scrollHeight;
}

function movement(rank, before) {
  if (before === undefined) return ["", ""];
  if (before === null) return ["new", "new"];
  if (before === rank) return ["", ""];
  const by = Math.abs(before - rank);
  return before > rank ? [`▲${by}`, `up ${by}`] : [`▼${by}`, `down ${by}`];
}

const exact = (prediction) => prediction.unexpanded < 0.0005;

function suggestionItem(item, rank, before) {
  const [mark, spoken] = movement(rank, before);
  const bar = element("span", { className: "bar" });
  bar.style.setProperty("--share", item.probability);
  const value = element("span", { className: "value", textContent: percent(item.probability) });
  const pick = element(
    "button",
    { type: "button", className: "pick", tabIndex: rank === 0 ? 0 : -1 },
    element("span", { className: "digit", textContent: rank + 1, ariaHidden: "true" }),
    hidden(`Accept suggestion ${rank + 1}: `),
    name(item.behavior, "label"),
    element("span", { className: `move ${mark.startsWith("▼") ? "down" : "up"}`, textContent: mark, ariaHidden: "true" }),
    hidden(", "),
    value,
    hidden(`${spoken && `, ${spoken}`}${item.suggested ? "" : ", not suggested"}`),
    bar,
  );
  pick.setAttribute("aria-keyshortcuts", String(rank + 1));
  const dismiss = element(
    "button",
    { type: "button", className: "dismiss", tabIndex: -1, title: "Dismiss" },
    hidden("Dismiss "),
    hidden(item.behavior),
    element("span", { textContent: "×", ariaHidden: "true" }),
  );
  const line = element("li", { className: item.suggested ? "suggested" : "" }, pick, dismiss);
  line.dataset.behavior = item.behavior;
  return line;
}

function verdict(prediction, settings) {
  const count = prediction.ranked.filter((item) => item.suggested).length;
  if (prediction.ranked.length === 0) return "Every candidate was dismissed.";
  if (settings.precision !== null) {
    const often = percent(settings.precision);
    return count ? `Suggests the first: right at least ${often} of the time.` : `Stays silent: not right ${often} of the time.`;
  }
  const least = percent(settings.threshold);
  return count ? `Suggests ${count === 1 ? "one" : count} of at least ${least}.` : `Stays silent: nothing reaches ${least}.`;
}

export function showPrediction(prediction, settings, ranks, total) {
  const list = find("suggestions");
  const held = list.contains(document.activeElement);
  list.replaceChildren(
    ...prediction.ranked.map((item, rank) => {
      const before = ranks ? (ranks.get(item.behavior) ?? null) : undefined;
      return suggestionItem(item, rank, before);
    }),
  );
  if (held) list.querySelector(".pick")?.focus();
  find("verdict").className = prediction.ranked.some((item) => item.suggested) ? "verdict" : "verdict silent";
  find("verdict").textContent = verdict(prediction, settings);
  find("latency").textContent = `${prediction.latency_ms.toFixed(1)} ms`;
  find("tokens").textContent = String(prediction.tokens_evaluated);
  find("window").textContent = String(prediction.window);
  find("answered").textContent = prediction.balance
    ? `${prediction.source}, rare behaviors raised (τ ${prediction.balance})`
    : prediction.source;
  const kind = prediction.calibrated ? "Calibrated probabilities" : "Probabilities, not calibrated";
  find("bounds").textContent = exact(prediction)
    ? `${kind}: every candidate was evaluated.`
    : `${kind}, lower bounds: candidates with at most ${percent(prediction.unexpanded)} together were not evaluated.`;
  find("likely-box").hidden = prediction.likely === null;
  if (prediction.likely !== null) {
    const share = `${prediction.likely.length} of ${total} candidates`;
    find("likely-title").textContent = `Prediction set at ${percent(settings.coverage)} coverage: ${share}`;
    find("likely").replaceChildren(...prediction.likely.map((label) => element("li", {}, name(label))));
  }
}

export function announce(prediction, settings) {
  const [first] = prediction.ranked;
  const most = first ? ` Most likely: ${first.behavior}, ${percent(first.probability)}.` : "";
  find("live").textContent = verdict(prediction, settings) + most;
}

export function showCosts(costs) {
  const latest = costs.slice(-KEPT_BARS);
  const most = Math.max(...latest, 1);
  find("bars").replaceChildren(
    ...latest.map((cost) => {
      const bar = element("span");
      bar.style.setProperty("--share", Math.max(cost / most, 0.02));
      return bar;
    }),
  );
}

export function showProblem(message, field = null) {
  find("problem").textContent = message;
  for (const id of ["behavior", "when", "place"]) {
    if (id === field) find(id).setAttribute("aria-invalid", "true");
    else find(id).removeAttribute("aria-invalid");
  }
}

export function showNoPrediction(message) {
  find("suggestions").replaceChildren();
  find("verdict").className = "verdict silent";
  find("verdict").textContent = `No prediction: ${message}`;
}

export function showOffline(offline) {
  find("offline").hidden = !offline;
  find("offline").textContent = offline ? "edgeb does not answer. Is it still running in its terminal?" : "";
}
