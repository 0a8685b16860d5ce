// What htmx does not do by itself: when to refresh the live part, times in words, uploads, small comforts.
// Without scripts the pages work, too; reload to see news.
"use strict";

const INTERVAL = 2000;
const RETRY_MAX = 30000;

// --- times in words ---

function words(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60]];
  for (const [unit, size] of units) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}

function wordTimes() {
  for (const time of document.querySelectorAll("time[data-ago], time[data-since]")) {
    const at = new Date(time.dateTime);
    const age = (Date.now() - at) / 1000;
    if (!time.title) time.title = at.toLocaleString();
    const text = "since" in time.dataset ? `${words(Math.max(age, 0))} so far`
      : age < -1 ? `in ${words(-age)}` : age < 2 ? "just now" : `${words(age)} ago`;
    if (time.textContent !== text) time.textContent = text;
  }
}

// --- the live part ---

const livePart = () => document.querySelector("[data-part]");
const shownStatus = () => livePart()?.querySelector("h1 .status")?.textContent;
let failures = 0;
let timer = 0;
let held = null;
let said;

function schedule() {
  clearTimeout(timer);
  if (document.hidden || livePart()?.dataset.live !== "1") return;
  timer = setTimeout(look, Math.min(INTERVAL * 2 ** failures, RETRY_MAX));
}

function look() {
  const selection = document.getSelection();
  const isSelecting = selection && !selection.isCollapsed && livePart().contains(selection.anchorNode);
  if (isSelecting) schedule();
  else htmx.trigger(livePart(), "refresh");
}

function note(isGood) {
  failures = isGood ? 0 : failures + 1;
  const stale = document.querySelector("[data-stale]");
  if (stale) stale.hidden = failures < 2;
  schedule();
}

addEventListener("htmx:configRequest", ({ detail }) => {
  if (detail.elt === livePart()) detail.headers["If-None-Match"] = detail.elt.dataset.etag;
  if (detail.verb !== "get") return;
  for (const [name, value] of [...detail.formData]) if (value === "") detail.formData.delete(name);
});

addEventListener("htmx:beforeSwap", ({ detail }) => {
  const { xhr, elt } = detail;
  if (elt === livePart()) {
    const active = document.activeElement;
    held = elt.contains(active) ? active.getAttribute("href") : null;
    if (xhr.status === 404) location.reload();
  } else if (detail.requestConfig.verb === "post" && xhr.getResponseHeader("Content-Type")?.startsWith("text/html")) {
    detail.shouldSwap = true; // a form with what is wrong with it, or a page that says why not
    detail.isError = false;
  }
});

addEventListener("htmx:afterRequest", ({ detail }) => {
  const part = livePart();
  if (detail.elt !== part) return;
  const { status } = detail.xhr;
  if (status === 200) {
    part.dataset.live = detail.xhr.getResponseHeader("X-Live") ?? "0";
    part.dataset.etag = detail.xhr.getResponseHeader("ETag") ?? "";
  }
  note(status === 200 || status === 304);
});

addEventListener("htmx:afterSettle", () => {
  wordTimes();
  if (held) livePart()?.querySelector(`[href="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
  held = null;
  const status = shownStatus();
  if (status && said && status !== said) document.querySelector("[data-said]").textContent = `Status: ${status}`;
  said = status;
  schedule();
});

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (livePart()?.dataset.live === "1") look();
});

// --- uploads ---

function tellChosen(input) {
  const told = input.closest("[data-drop-zone]").querySelector("[data-chosen]");
  const file = input.files[0];
  told.hidden = !file;
  if (file) told.textContent = `${file.name} (${Math.max(1, Math.round(file.size / 1024)).toLocaleString()} KiB)`;
}

for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    const zone = event.target.closest?.("[data-drop-zone]");
    zone?.classList.toggle("over", name === "dragover");
  });
}

addEventListener("change", ({ target }) => {
  if (target.matches("[data-drop]")) tellChosen(target);
});

addEventListener("htmx:xhr:progress", ({ target, detail }) => {
  const sending = target.querySelector?.("[data-sending]");
  if (!sending || !detail.lengthComputable) return;
  const percent = Math.floor((detail.loaded / detail.total) * 100);
  sending.hidden = false;
  sending.querySelector("progress").value = percent;
  sending.querySelector("[data-sent]").textContent = percent < 100 ? `${percent} %` : "done; its lines are being checked";
});

addEventListener("htmx:sendError", ({ target }) => {
  const sending = target.querySelector?.("[data-sending]");
  if (!sending) return;
  sending.hidden = false;
  sending.querySelector("[data-sent]").textContent = "failed: the server does not answer. Nothing was made; send it again.";
});

// --- comforts ---

addEventListener("click", async ({ target }) => {
  for (const menu of document.querySelectorAll("[data-menu][open]")) if (!menu.contains(target)) menu.open = false;
  const button = target.closest?.("[data-copy]");
  if (!button) return;
  const shown = document.querySelector(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(shown.textContent);
    button.textContent = "Copied";
  } catch {
    document.getSelection().selectAllChildren(shown); // to be copied by hand
  }
});

addEventListener("keydown", ({ key }) => {
  const menu = document.querySelector("[data-menu][open]");
  if (key !== "Escape" || !menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

for (const choice of document.querySelectorAll("[data-theme-switch] input")) {
  choice.checked = choice.value === (document.documentElement.dataset.theme ?? "");
  choice.addEventListener("change", () => {
    document.documentElement.dataset.theme = choice.value;
    try {
      localStorage.setItem("theme", choice.value);
    } catch {
      // for this page only, then
    }
  });
}

addEventListener("pageshow", (event) => event.persisted && location.reload());
wordTimes();
setInterval(wordTimes, 1000);
said = shownStatus();
schedule();
