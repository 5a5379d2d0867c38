"use strict";
// What script adds to pages that work without it: countdowns, the part of a link behind "#", one submit per form.
(() => {
  const loaded = Date.now();
  const texts = document.body.dataset;

  // The text of a number, in the form that the language has for it: data-<name>-one, data-<name>-other and so on.
  const category = (n) => {
    try {
      return new Intl.PluralRules(document.documentElement.lang).select(n);
    } catch {
      return n === 1 ? "one" : "other";
    }
  };
  const plural = (name, n) => {
    const form = (kind) => texts[name + kind[0].toUpperCase() + kind.slice(1)];
    return (form(category(n)) ?? form("other")).replace("{n}", n);
  };
  const about = (seconds) =>
    seconds >= 60 ? plural("minutes", Math.round(seconds / 60)) : plural("seconds", seconds);

  // Seconds left of a time that came with the page; by the clock, so that a sleeping phone does not matter.
  const left = (seconds) => Math.max(0, Math.ceil(Number(seconds) - (Date.now() - loaded) / 1000));

  // Shows once that a time has run out; the end of the whole time also covers the end of the code.
  const show = (id) => {
    const [code, time] = ["code-over", "time-over"].map((name) => document.getElementById(name));
    if (id === "time-over" || time.hidden) document.getElementById(id).hidden = false;
    if (!time.hidden) code.hidden = true;
  };

  const count = () => {
    for (const element of document.querySelectorAll("[data-seconds]")) {
      const seconds = left(element.dataset.seconds);
      const text = about(seconds);
      if (element.textContent !== text) element.textContent = text;
      if (seconds === 0 && element.dataset.over) {
        element.closest("li").hidden = true;
        show(element.dataset.over);
      }
    }
    for (const button of document.querySelectorAll("button[data-wait]")) {
      button.disabled = left(button.dataset.wait) > 0;
      const waiting = button.form.querySelector("[data-while-waiting]");
      if (waiting) waiting.hidden = !button.disabled;
    }
  };

  const addTail = () => {
    const tail = document.querySelector("input[name=reference_tail]");
    if (!tail) return;
    const at = location.href.indexOf("#"); // location.hash is empty for a bare "#"
    tail.value = at < 0 ? "" : location.href.slice(at);
  };

  // The part behind "#" goes along where a link leads to the same page again.
  const hash = location.href.indexOf("#");
  for (const link of document.querySelectorAll("a[data-tail]")) {
    if (hash >= 0) link.href += location.href.slice(hash);
  }

  const addScript = () => {
    for (const field of document.querySelectorAll("input[name=script]")) field.value = "1";
  };

  // The last page says what became of the answer, in place: it asks again by itself until that is settled.
  const look = async (live, times) => {
    try {
      const answer = await fetch(`${live.dataset.live}&looked=${times}`, { headers: { Accept: "application/json" } });
      const { state, text } = await answer.json();
      const place = live.querySelector("span");
      if (text && place.textContent.trim() !== text) place.textContent = text;
      const isCopied = document.querySelector(".chat-code"); // nothing moves under a code that is being copied
      if (state !== "open" && !isCopied) location.replace(live.dataset.live);
      if (state !== "open") return;
    } catch { /* offline for a moment */ }
    if (times < 10) setTimeout(look, 2000, live, times + 1);
  };

  // A second tap on the same form does nothing until the response arrives or the request fails.
  const sent = new Set();
  const release = (form) => {
    sent.delete(form);
    for (const button of form.querySelectorAll("button:not([data-wait])")) button.disabled = false;
    form.removeAttribute("aria-busy");
    count();
  };
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (sent.has(form)) {
      event.preventDefault();
      return;
    }
    addTail();
    sent.add(form);
    form.setAttribute("aria-busy", "true");
    // Only after the browser has read the pressed button's name and value.
    setTimeout(() => {
      for (const button of form.querySelectorAll("button")) button.disabled = true;
    });
    setTimeout(() => release(form), 10000);
  });
  addEventListener("pageshow", () => [...sent].forEach(release));

  // The second half of a double tap may hit the next page, so buttons that end everything there wait for a moment.
  const endings = document.querySelectorAll("button[name=decline], button[name=reason]");
  for (const button of endings) button.disabled = true;
  setTimeout(() => { for (const button of endings) button.disabled = sent.has(button.form); }, 600);

  const link = document.getElementById("link");
  if (link) link.addEventListener("focus", () => link.select());

  addTail();
  addScript();
  const live = document.querySelector("[data-live]");
  if (live) setTimeout(look, 2000, live, 1);
  count();
  if (document.querySelector("[data-seconds]")) setInterval(count, 1000);
})();
