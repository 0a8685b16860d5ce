// Keeps the live part of a page fresh, and words times. Without it the pages work; reload to see news.
"use strict";

const INTERVAL = 2000;
const RETRY_MAX = 30000;
const part = document.querySelector("[data-part]");
const stale = document.querySelector("[data-stale]");
let failures = 0;
let timer = 0;

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

function replacePart(html) {
  // Keyboard users keep their place.
  const held = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  part.innerHTML = html;
  if (held) part.querySelector(`[href="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
  wordTimes();
}

function isSelecting() {
  const selection = document.getSelection();
  return Boolean(selection && !selection.isCollapsed && part.contains(selection.anchorNode));
}

async function refresh() {
  const url = new URL(location.href);
  url.searchParams.set("part", "1");
  const answer = await fetch(url, {
    cache: "no-store",
    redirect: "manual",
    headers: { "If-None-Match": part.dataset.etag },
  });
  if (answer.type === "opaqueredirect" || answer.status === 404) return location.reload();
  if (answer.status !== 304) {
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const html = await answer.text();
    part.dataset.live = answer.headers.get("X-Live");
    part.dataset.etag = answer.headers.get("ETag");
    replacePart(html);
  }
}

function schedule() {
  clearTimeout(timer);
  if (document.hidden || part.dataset.live !== "1") return;
  timer = setTimeout(look, Math.min(INTERVAL * 2 ** failures, RETRY_MAX));
}

async function look() {
  try {
    if (!isSelecting()) await refresh();
    failures = 0;
  } catch {
    failures += 1;
  }
  stale.hidden = failures < 2;
  schedule();
}

wordTimes();
setInterval(wordTimes, 1000);
if (part) {
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : look()));
  schedule();
}

// A second click must not send a large file again.
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button[type=submit]")) {
      button.disabled = true;
      button.textContent = "Sending…";
    }
  });
}
addEventListener("pageshow", (event) => event.persisted && location.reload());
