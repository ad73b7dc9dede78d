// The pages move by themselves: each is asked for again, and what changed in its regions (data-region) is taken over.
// The server alone makes markup. Nothing here turns text into markup, and the page's policy would not let it.

const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// ---- taking over what changed ----------------------------------------------------------------------------------------

const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.id : "");

function sameKind(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && keyOf(one) === keyOf(other);
}

function takeOver(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // What a reader opened stays open.
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  takeOverChildren(old, fresh);
}

function takeOverChildren(old, fresh) {
  const kept = new Map(all(":scope > [id]", old).map((node) => [node.id, node]));
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const known = keyOf(child) && kept.get(keyOf(child));
    if (known && known !== place) {
      old.insertBefore(known, place);
      takeOver(known, child);
    } else if (place && sameKind(place, child)) {
      takeOver(place, child);
      place = place.nextSibling;
    } else {
      old.insertBefore(document.importNode(child, true), place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function show(fresh) {
  for (const region of all("[data-region]")) {
    const other = fresh.getElementById(region.id);
    if (other) takeOver(region, other);
  }
  document.body.dataset.refresh = fresh.body.dataset.refresh ?? "";
  document.title = fresh.title;
  countChosen();
}

// ---- asking ------------------------------------------------------------------------------------------------------------

// XMLHttpRequest, since it alone gives a document without making markup of text.
function ask(address) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", address);
    request.responseType = "document";
    request.timeout = 15000;
    request.onload = () => resolve(request);
    request.onerror = request.ontimeout = () => reject(new Error("no answer"));
    request.send();
  });
}

const isLogin = (address) => new URL(address, location.href).pathname === "/login";
let lastWell = new Date();

function away(text) {
  const line = byId("connection");
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("shown", Boolean(text));
}

function troubled(why) {
  away(`${why} What is shown here is from ${lastWell.toLocaleTimeString()}.`);
}

let tookMs = 0;

async function load(address) {
  let answer;
  const began = performance.now();
  try {
    answer = await ask(address);
    tookMs = performance.now() - began;
  } catch {
    troubled("The scheduler does not answer.");
    return null;
  }
  if (isLogin(answer.responseURL)) {
    location.reload();
    return null;
  }
  if (answer.status === 503) troubled("Redis or the store does not answer.");
  else if (answer.status === 429) troubled("Too many requests came from here.");
  else if (answer.status >= 400 && answer.status !== 404) troubled(`The scheduler answered ${answer.status}.`);
  else if (answer.status === 404) troubled("This is gone.");
  else {
    away("");
    lastWell = new Date();
    return answer.response;
  }
  return null;
}

let asking = 0;
let going = 0;

async function refresh() {
  // Where somebody is on the way to, what is here matters no more.
  if (going) return;
  const mine = ++asking;
  const fresh = await load(location.href);
  if (fresh === null || mine !== asking) return;
  if ("untilWell" in document.body.dataset) location.reload();
  else show(fresh);
  if (byId("sheet").open) await refreshSheet();
}

async function go(address, { replace = false, stay = false } = {}) {
  const mine = ++asking;
  going += 1;
  const fresh = await load(address);
  going -= 1;
  if (fresh === null || mine !== asking) return;
  const depth = history.state?.depth ?? 0;
  if (replace) history.replaceState({ depth }, "", address);
  else history.pushState({ depth: depth + 1 }, "", address);
  show(fresh);
  for (const field of all("input[type=search]")) {
    if (field !== document.activeElement) field.value = field.defaultValue;
  }
  for (const box of all("input[name=job]")) box.checked = false;
  countChosen();
  if (!stay && !replace) keepInSight();
}

function keepInSight() {
  const start = byId("jobs-heading") ?? byId("main");
  if (start.getBoundingClientRect().top < 0) start.scrollIntoView({ block: "start" });
}

addEventListener("popstate", () => void go(location.href, { replace: true }));

// ---- by themselves -----------------------------------------------------------------------------------------------------

let source = null;

function listen() {
  const { batch } = document.body.dataset;
  const running = byId("head")?.dataset.state === "running";
  if (!batch || !running || source) return;
  source = new EventSource(`/api/v1/batches/${encodeURIComponent(batch)}/events`);
  let due = null;
  // What is costly to make, as a batch with thousands of failures, is asked for less often.
  const soon = () => {
    due ??= setTimeout(() => {
      due = null;
      void refresh();
    }, Math.min(Math.max(400, 10 * tookMs), 10000));
  };
  const close = () => {
    source?.close();
    source = null;
  };
  source.addEventListener("progress", soon);
  source.addEventListener("done", () => {
    close();
    soon();
  });
  // Too many listen, or the scheduler went away: until there is a place, the page is asked for again and again.
  source.addEventListener("error", () => {
    if (source?.readyState === EventSource.CLOSED) close();
  });
}

async function turn() {
  const seconds = Number(document.body.dataset.refresh);
  if (seconds && !document.hidden) {
    listen();
    await refresh();
  }
  const running = byId("head")?.dataset.state === "running";
  const pause = running && !source ? 2 : Number(document.body.dataset.refresh) || 10;
  setTimeout(() => void turn(), pause * 1000);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && Number(document.body.dataset.refresh)) void refresh();
});

// ---- changing something ------------------------------------------------------------------------------------------------

function say(text, bad = false) {
  const toast = document.createElement("p");
  toast.className = bad ? "toast bad" : "toast";
  toast.textContent = text;
  byId("toasts").append(toast);
  setTimeout(() => toast.remove(), bad ? 12000 : 5000);
}

function sure(question) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function post(address, content, headers = {}) {
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: JSON.stringify(content),
    });
  } catch {
    return { problem: { detail: "The scheduler does not answer; nothing was changed." } };
  }
  if (answer.status === 401) {
    location.reload();
    return { problem: { detail: "Your session has ended." } };
  }
  const told = await answer.json().catch(() => ({ detail: `The scheduler answered ${answer.status}.` }));
  return answer.ok ? { told } : { problem: told };
}

async function change(button) {
  const { post: address, confirm: question, done, body } = button.dataset;
  if (question && !(await sure(question))) return;
  const content = "chosen" in button.dataset ? { jobs: chosen() } : JSON.parse(body ?? "{}");
  button.disabled = true;
  const { told, problem } = await post(address, content);
  button.disabled = false;
  if (problem) say(problem.detail, true);
  else say(told.jobs.length === 1 ? `1 job ${done}` : `${told.jobs.length} jobs ${done}`);
  if ("chosen" in button.dataset) for (const box of all("input[name=job]")) box.checked = false;
  if (byId("sheet").open) await refreshSheet({ finished: true });
  await refresh();
  listen();
}

const chosen = () => all("input[name=job]:checked").map((box) => box.value);

function countChosen() {
  const boxes = all("input[name=job]");
  const count = chosen().length;
  const label = byId("chosen-count");
  if (!label) return;
  label.textContent = count ? `${count} chosen` : "None chosen";
  for (const button of all("[data-chosen]")) button.disabled = !count;
  const whole = byId("choose-all");
  if (!whole) return;
  whole.checked = count > 0 && count === boxes.length;
  whole.indeterminate = count > 0 && count < boxes.length;
}

let submission = null;

async function submitBatch(form) {
  const asked = { requirements: form.requirements.value, anew: form.anew.checked };
  const text = JSON.stringify(asked);
  if (submission?.text !== text) submission = { text, key: newKey() };
  const { told, problem } = await post("/api/v1/batches", asked, { "Idempotency-Key": submission.key });
  const list = byId("new-batch-problems");
  list.replaceChildren();
  if (told) {
    location.assign(`/batches/${encodeURIComponent(told.id)}`);
    return;
  }
  for (const each of problem.problems ?? [problem.detail]) {
    const line = document.createElement("p");
    line.textContent = each;
    list.append(line);
  }
}

function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// ---- a job beside its batch --------------------------------------------------------------------------------------------

let sheetAddress = "";

async function openSheet(address) {
  const fresh = await load(address);
  const job = fresh?.getElementById("job");
  if (!job) return;
  sheetAddress = address;
  const close = document.createElement("button");
  close.type = "button";
  close.className = "quiet small sheet-close";
  close.dataset.close = "";
  close.textContent = "Close";
  const content = document.importNode(job, true);
  content.id = "sheet-job";
  content.removeAttribute("data-region");
  byId("sheet-content").replaceChildren(close, content);
  if (!byId("sheet").open) byId("sheet").showModal();
  byId("sheet").scrollTop = 0;
}

async function refreshSheet({ finished = false } = {}) {
  const shown = byId("sheet-job");
  if (!shown || (shown.dataset.state === "finished" && !finished)) return;
  const job = (await load(sheetAddress))?.getElementById("job");
  if (!job) return;
  job.id = "sheet-job";
  job.removeAttribute("data-region");
  takeOver(shown, job);
}

// ---- what people do ----------------------------------------------------------------------------------------------------

const plainClick = (event) => event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-swap], a[data-sheet]");
  if (link && plainClick(event)) {
    event.preventDefault();
    if ("sheet" in link.dataset) void openSheet(link.href);
    else if ("back" in link.dataset && history.state?.depth) history.back();
    else void go(link.href, { stay: "stay" in link.dataset });
    return;
  }
  const button = event.target.closest("button");
  if (!button) {
    // A click beside a dialog closes it.
    if (event.target instanceof HTMLDialogElement && event.target.id !== "confirm") event.target.close();
    return;
  }
  const { post: address, open, copy } = button.dataset;
  if (address) void change(button);
  else if (open) byId(open).showModal();
  else if ("close" in button.dataset) button.closest("dialog").close();
  else if (copy) void copyText(button, copy);
  else if (button.id === "theme") nextTheme();
});

document.addEventListener("change", (event) => {
  if (event.target.id === "choose-all") {
    for (const box of all("input[name=job]")) box.checked = event.target.checked;
  }
  if (event.target.closest("#jobs")) countChosen();
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.id === "new-batch-form") {
    event.preventDefault();
    void submitBatch(form);
  } else if ("swap" in form.dataset) {
    event.preventDefault();
    search(form, false);
  }
});

let typing = null;

document.addEventListener("input", (event) => {
  if (!("live" in event.target.dataset)) return;
  clearTimeout(typing);
  typing = setTimeout(() => search(event.target.form, true), 150);
});

function search(form, replace) {
  const fields = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  const address = new URL(form.getAttribute("action") ?? location.pathname, location.href);
  address.search = fields.toString();
  void go(address.href, { replace });
}

document.addEventListener("keydown", (event) => {
  const writing = event.target.closest("input, textarea, select");
  const field = document.querySelector("input[type=search]");
  if (event.key === "/" && !writing && field && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    field.focus();
    field.select();
  }
});

async function copyText(button, text) {
  const label = button.lastChild;
  try {
    await navigator.clipboard.writeText(text);
    label.data = "Copied";
  } catch {
    // Without TLS a browser may not let us: then the text is selected, ready to be copied by hand.
    getSelection().selectAllChildren(button.previousElementSibling);
    label.data = "Selected";
  }
  setTimeout(() => (label.data = "Copy"), 2000);
}

const THEMES = { auto: "as the system", light: "light", dark: "dark" };

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  byId("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
  byId("theme").querySelector(".theme-word").textContent = theme[0].toUpperCase() + theme.slice(1);
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % names.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  localStorage.setItem("vizfetch-theme", next);
  showTheme();
}

showTheme();
countChosen();
listen();
setTimeout(() => void turn(), (Number(document.body.dataset.refresh) || 10) * 1000);
