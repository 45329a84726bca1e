// The page: it shows what GET /state answers, presses the buttons (POST), and follows the events.
// Everything is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const NOISE = new Set(["request_started", "request_finished", "session_data_retrieved", "session_usage"]);
const MOST_EVENTS = 300;

let state = null;
let clockAhead = 0; // seconds by which this clock is ahead of the server's
let race = null; // { began, signingOut, signedOutAt } while the slow request is under way
let source = null;
let followed = null;
let lastEvent = "0";

function element(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, data);
  made.append(...children);
  return made;
}

// --- talking to the server ---

async function post(path) {
  const response = await fetch(path, { method: "POST" });
  if (!response.ok) throw new Error(await response.text());
  return response.status === 204 ? null : response.json();
}

async function press(path) {
  try {
    await post(path);
    complain(null);
  } catch (problem) {
    complain(problem);
  }
  await refresh();
}

async function refresh() {
  try {
    const response = await fetch("/state");
    if (!response.ok) throw new Error(await response.text());
    state = await response.json();
    clockAhead = Date.now() / 1000 - state.now;
  } catch (problem) {
    return complain(problem);
  }
  show();
  follow();
}

function complain(problem) {
  $("problem").hidden = problem === null;
  const away = problem instanceof TypeError; // what fetch throws when nobody answers
  $("problem").textContent = away ? "The server does not answer. Is it running?" : (problem?.message ?? "");
}

// --- showing the state ---

function show() {
  showPerson();
  showFacts();
  $("visits").textContent = state.visits;
  showCart();
  showDevices();
  showRace();
  showRestart();
}

function showPerson() {
  const user = state.session?.user ?? null;
  $("you-title").textContent = user ? `Signed in as ${state.users[user]}` : "Nobody is signed in";
  $("you-hint").textContent = hintFor(user);
  $("avatar").textContent = user ? state.users[user][0] : "?";
  if (user) $("avatar").dataset.user = user;
  else delete $("avatar").dataset.user;
  const buttons = Object.entries(state.users).map(([id, name]) =>
    button(!user ? `Sign in as ${name}` : id === user ? "Sign in again" : `Switch to ${name}`, `/sign-in/${id}`, {
      id: `sign-in-${id}`, className: user ? "" : "main" }));
  const signOut = button("Sign out", "/sign-out", { id: "sign-out", className: "danger", disabled: !user });
  replace("people", ...buttons, signOut);
}

function hintFor(user) {
  if (user) return "A sign-in gives the session a new cookie: any older one is worthless at once.";
  if (state.session) return "You have an anonymous session. Sign in, and what is in it stays.";
  if (state.ended_because) return `Your last session has ended: ${state.ended_because.replaceAll("_", " ")}.`;
  return "And there is no session: a visitor for whom nothing is kept costs no database call.";
}

function showFacts() {
  const session = state.session;
  $("facts").hidden = !session;
  if (!session) return;
  $("session-id").textContent = session.id;
  $("created").textContent = `${clock(session.created_at)}, ${ago(session.created_at)}`;
  showBar("idle", session.expires_at, session.idle_timeout);
  showBar("absolute", session.absolute_deadline, session.absolute_timeout);
}

function showBar(id, deadline, whole) {
  const left = Math.max(0, deadline - now());
  $(id).low = 0.15;
  $(id).optimum = 1;
  $(id).value = left / whole;
  $(`${id}-text`).textContent = left ? `ends in ${span(left)}` : "over";
}

function showCart() {
  const total = Object.values(state.cart).reduce((sum, quantity) => sum + quantity, 0);
  $("cart-count").textContent = total;
  replace("cart", ...Object.entries(state.shop).map(([id, name]) => {
    const quantity = state.cart[id] ?? 0;
    const less = button("−", `/cart/${id}/remove`, {
      id: `less-${id}`, className: "small", ariaLabel: `One ${name} less`, disabled: !quantity });
    const more = button("+", `/cart/${id}/add`, { id: `more-${id}`, className: "small", ariaLabel: `One ${name} more` });
    return element("li", {}, element("span", { className: "grow" }, name), less,
      element("span", { className: "quantity", id: `quantity-${id}` }, String(quantity)), more);
  }));
}

function showDevices() {
  $("devices-count").textContent = state.devices.length;
  $("sign-out-others").disabled = state.devices.length < 2;
  const nobody = element("li", { className: "none" }, "Sign in to see where you are signed in.");
  replace("devices", ...(state.devices.length ? state.devices.map(device) : [nobody]));
}

function device({ id, browser, seen_at, signed_in_at, is_this }) {
  const what = element("span", { className: "grow" }, element("b", {}, browser));
  if (is_this) what.append(element("span", { className: "tag" }, "this one"));
  what.append(element("span", { className: "dim" }, `signed in ${clock(signed_in_at)} · seen ${ago(seen_at)} · `,
    element("code", {}, id.slice(0, 8) + "…")));
  return element("li", { data: { device: is_this ? "this" : "other" } }, what,
    button("Sign out", `/devices/${id}/sign-out`, {
      id: `end-${id}`, className: "small danger", ariaLabel: `Sign out ${browser}` }));
}

function showRestart() {
  const session = state.session;
  const survived = session && session.created_at < state.started_at;
  $("restart").dataset.outcome = survived ? "survived" : "none";
  $("restart").textContent = survived
    ? `This server has run since ${clock(state.started_at)}; your session is older (${clock(session.created_at)}). It survived the restart.`
    : `This server has run since ${clock(state.started_at)}.`;
}

// Keeps the keyboard's place: a button that is shown anew gets the focus back.
function replace(id, ...children) {
  const focused = document.activeElement?.id;
  $(id).replaceChildren(...children);
  if (focused && document.activeElement?.id !== focused) $(focused)?.focus();
}

function button(text, path, properties) {
  return element("button", { type: "button", onclick: () => press(path), ...properties }, text);
}

// --- the race ---

async function runSlowRequest() {
  race = { began: performance.now(), signingOut: null, signedOutAt: null };
  $("lane-mark").hidden = true;
  $("lane").dataset.is = "running";
  showRace();
  tell("running", "The slow request has your session and is at work…");
  requestAnimationFrame(drawLane);
  try {
    const { saved } = await post("/slow");
    const { signingOut, signedOutAt } = race;
    await signingOut; // its answer may be the later one, although it was in time
    race = null;
    await refresh();
    finishRace(saved, signedOutAt !== null || (signingOut !== null && !saved));
  } catch (problem) {
    race = null;
    $("lane").dataset.is = "idle";
    tell("unknown", "The slow request got no answer.");
    complain(problem);
  }
  showRace();
}

async function signOutMeanwhile() {
  const signingOut = press("/sign-out");
  if (race) race.signingOut = signingOut;
  await signingOut;
  if (!race) return;
  race.signedOutAt = performance.now();
  $("lane-mark").style.left = `${portion()}%`;
  $("lane-mark").hidden = false;
  tell("running", "You are signed out. The slow request does not know, and will write soon…");
}

function finishRace(saved, signedOut) {
  const outcome = signedOut ? (saved || state.session ? "risen" : "dead") : saved ? "alive" : "unknown";
  $("lane-fill").style.width = "100%";
  $("lane").dataset.is = outcome;
  tell(outcome, {
    dead: "The session stays dead. The slow request found it gone: nothing was written, no cookie was sent, and an event names the key that was lost.",
    alive: "Nobody signed out in time, so the slow request wrote into a live session. Try again, and be quicker.",
    risen: "The session came back. That must never happen: please report it.",
    unknown: "The session ended for another reason meanwhile; nothing was written.",
  }[outcome]);
}

function showRace() {
  const user = state?.session?.user;
  $("slow-seconds").textContent = state?.slow ?? "some";
  $("slow").disabled = !user || race !== null;
  $("race-sign-out").disabled = !user || race === null;
  const idle = $("race-result").dataset.outcome === "none";
  if (idle) $("race-result").textContent = user ? "Ready." : "Sign in to begin.";
}

function tell(outcome, text) {
  $("race-result").dataset.outcome = outcome;
  $("race-result").textContent = text;
}

function portion() {
  return Math.min(100, (performance.now() - race.began) / (state.slow * 10));
}

function drawLane() {
  if (!race) return;
  $("lane-fill").style.width = `${portion()}%`;
  requestAnimationFrame(drawLane);
}

// --- the events ---

// A stream shows what the session that opened it may see, so another session needs another stream. A stream
// whose session has ended goes on: it still tells what became of requests that came too late.
function follow() {
  const session = state.session;
  const wanted = session ? `${session.id} ${session.user}` : followed ?? "nobody";
  if (race || (wanted === followed && source.readyState !== EventSource.CLOSED)) return;
  followed = wanted;
  source?.close();
  source = new EventSource(`/events?after=${lastEvent}`);
  source.onopen = () => connection("live", "live");
  source.onerror = () => connection("away", "server away, trying again");
  source.onmessage = hear;
}

function connection(is, text) {
  const was = $("connection").dataset.is;
  $("connection").dataset.is = is;
  $("connection").textContent = text;
  if (is === "live" && was === "away") {
    complain(null);
    refresh();
  }
}

let due = null;
function hear(message) {
  lastEvent = message.lastEventId;
  const event = JSON.parse(message.data);
  enter(event);
  while ($("events").children.length > MOST_EVENTS) $("events").lastChild.remove();
  $("no-events").hidden = true;
  if (NOISE.has(event.name) || event.kind === "manager") return;
  if (event.name === "session_data_retrieval_failed") return; // what our own look at a dead session causes
  due ??= setTimeout(() => { due = null; refresh(); }, 60);
}

// An event that is like the one before it is counted there: twenty visits are one line.
let latest = { key: null };
function enter(event) {
  const { name, kind, fields } = event;
  if (NOISE.has(name)) return $("events").prepend(line(event));
  const key = JSON.stringify([name, kind, fields]);
  if (key !== latest.key) latest = { key, times: 0, line: line(event) };
  latest.times += 1;
  latest.line.querySelector(".times").textContent = latest.times > 1 ? `×${latest.times}` : "";
  latest.line.querySelector("time").textContent = clock(event.time);
  $("events").prepend(latest.line);
}

function line({ name, level, meaning, time, kind, fields }) {
  const about = element("span", { className: "about" }, element("span", { className: "level" }, level),
    element("span", {}, kind));
  for (const [field, value] of Object.entries(fields)) {
    if (value === null || value.length === 0) continue;
    about.append(element("span", {}, `${field} `, element("code", {}, readable(field, value))));
  }
  return element("li", { title: meaning, data: { level, name, is: NOISE.has(name) ? "noise" : "change" } },
    element("span", {}, element("strong", {}, name), element("span", { className: "times" })),
    element("time", {}, clock(time)), about);
}

function readable(field, value) {
  if (field.endsWith("_at")) return clock(value);
  if (field === "duration") return `${(value * 1000).toFixed(1)} ms`;
  if (Array.isArray(value)) return value.join(", ");
  return typeof value === "string" ? value : JSON.stringify(value);
}

// --- times ---

const now = () => Date.now() / 1000 - clockAhead;
const clock = (time) => new Date(time * 1000).toLocaleTimeString([], { hour12: false });
const ago = (time) => (now() - time < 5 ? "just now" : `${span(now() - time)} ago`);

function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

// --- begin ---

$("visit").onclick = () => press("/visits");
$("visit-20").onclick = async () => {
  if (!state.session) await press("/visits"); // else each of the twenty would begin a session of its own
  const left = state.session && state.visits === 1 ? 19 : 20;
  await Promise.allSettled(Array.from({ length: left }, () => post("/visits")));
  await refresh();
};
$("sign-out-others").onclick = () => press("/devices/others/sign-out");
$("slow").onclick = runSlowRequest;
$("race-sign-out").onclick = signOutMeanwhile;
$("all").onchange = () => { $("events").dataset.shows = $("all").checked ? "all" : "changes"; };
addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(() => {
  if (state?.session && state.session.expires_at < now()) refresh();
  else if (state) showFacts();
}, 1000);
refresh();
