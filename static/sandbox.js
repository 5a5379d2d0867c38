// Updates a sandbox page without reloading it. It fetches the page itself, so that only the server renders pages.
// Without this file the server's Refresh header reloads a waiting chat.
"use strict";

const POLL_MILLISECONDS = 2000;
let timer = 0;

function isSame(old, fresh) {
  if (fresh.dataset.version) return old.dataset.version === fresh.dataset.version;
  return old.innerHTML === fresh.innerHTML;
}

// A chat log grows at its end: adding only what is new lets a screen reader speak only that.
function growLog(old, fresh) {
  const added = [...fresh.children].slice(old.children.length);
  if (added.length) old.append(...added);
  else old.replaceChildren(...fresh.children);
}

function exchange(old, fresh) {
  const hadFocus = old.contains(document.activeElement);
  old.replaceWith(document.adoptNode(fresh));
  if (hadFocus) fresh.querySelector("input:not([type=hidden]), button, a")?.focus();
}

function takeOver(page) {
  for (const fresh of page.querySelectorAll("[data-live]")) {
    const old = document.getElementById(fresh.id);
    if (!old || isSame(old, fresh)) continue;
    if (fresh.dataset.live === "log") growLog(old, fresh);
    else exchange(old, fresh);
  }
  document.title = page.title;
  if (page.querySelector("[data-settled]")) clearInterval(timer); // nothing more arrives, and each look counts as use
}

async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.ok) takeOver(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    // The server may be restarting: the next look finds it again.
  }
}

// A page can't cancel its Refresh header, so it moves to an address without one;
// only if fetching works, because otherwise the page would never change again.
async function leaveRefreshing() {
  const live = new URL(location.href);
  live.searchParams.set("live", "1");
  try {
    if ((await fetch(live, { headers: { Accept: "text/html" } })).ok) location.replace(live);
  } catch {
    // Then the header keeps refreshing the page.
  }
}

if (document.querySelector("[data-refreshing]")) {
  leaveRefreshing();
} else if (document.querySelector("[data-live]")) {
  timer = setInterval(look, POLL_MILLISECONDS);
  document.addEventListener("visibilitychange", look);
}
