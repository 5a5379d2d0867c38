"use strict";
// What script adds to pages that work without it: the part of a link behind "#", countdowns, one submit per form, the
// code out of a message, buttons that copy and show, and the state of the answer on the last page.
(() => {
  const began = Date.now();
  const root = document.documentElement;
  const texts = document.body.dataset;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // --- The part of a link behind "#", which the server never sees: in the forms, and in the links of the landing page
  const fill = () => {
    const at = location.href.indexOf("#"); // location.hash is empty for a bare "#"
    const tail = at < 0 ? "" : location.href.slice(at);
    for (const field of all("input[name=reference_tail]")) field.value = tail;
    for (const link of all("a[data-tail]")) {
      const before = link.getAttribute("href").split("#")[0];
      if (tail && before.includes("reference=")) link.setAttribute("href", before + tail);
    }
    for (const field of all("input[name=script]")) field.value = "1";
  };

  // --- Time: seconds left of what came with the page; by the clock, so that a sleeping phone does not matter.
  const left = (seconds) => Math.max(0, Math.ceil(Number(seconds) - (Date.now() - began) / 1000));
  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  // The text of a number, in the form that the language has for it: data-<name>-one, data-<name>-other and so on.
  const category = (n) => {
    try {
      return new Intl.PluralRules(root.lang).select(n);
    } catch {
      return n === 1 ? "one" : "other";
    }
  };
  const plural = (name, n) => {
    const form = (kind) => texts[name + kind[0].toUpperCase() + kind.slice(1)];
    return (form(category(n)) ?? form("other")).replace("{n}", n);
  };
  const minutes = (seconds) => plural("minutes", Math.max(1, Math.round(seconds / 60)));
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  const timeIsUp = () => {
    const over = byId("over");
    if (!over || !over.hidden) return;
    const main = over.closest("main");
    for (const part of [...over.parentElement.children]) if (part !== over) part.remove();
    main.classList.add("ended");
    const title = main.querySelector("h1");
    put(title, over.dataset.title);
    over.querySelector("h2").replaceWith(title);
    for (const line of all("progress, .count, .back", main)) line.hidden = true;
    title.tabIndex = -1;
    title.focus();
    document.title = over.dataset.title;
    over.hidden = false;
  };

  const count = () => {
    for (const line of all("progress[data-seconds]")) {
      const seconds = left(line.dataset.seconds);
      line.value = seconds;
      const words = minutes(seconds);
      if (line.getAttribute("aria-label") !== words) line.setAttribute("aria-label", words);
      const late = byId("late");
      if (late && seconds <= 60) late.hidden = false;
      if (seconds === 0) timeIsUp();
    }
    for (const element of all(".clock[data-seconds]")) put(element, clock(left(element.dataset.seconds)));
    for (const wait of all("[data-until]")) {
      const isWaiting = left(wait.querySelector("[data-seconds]").dataset.seconds) > 0;
      wait.hidden = !isWaiting;
      byId(wait.dataset.until).hidden = isWaiting;
    }
  };

  // --- A second tap on the same form does nothing until the response arrives or the request fails.
  const sent = new Map();
  const release = (form) => {
    const button = sent.get(form);
    sent.delete(form);
    form.closest(".sheet")?.classList.remove("busy");
    if (button?.dataset.words) {
      button.textContent = button.dataset.words;
      button.removeAttribute("aria-disabled");
    }
  };
  const busy = (form, pressed) => {
    const button = pressed?.dataset.busy ? pressed : null;
    sent.set(form, button);
    form.closest(".sheet")?.classList.add("busy");
    if (!button) return;
    button.dataset.words = button.textContent.trim();
    button.setAttribute("aria-disabled", "true");
    const spinner = document.createElement("span");
    spinner.className = "spinner";
    button.replaceChildren(spinner, button.dataset.busy);
  };
  document.addEventListener("submit", (event) => {
    const form = event.target, pressed = event.submitter;
    if (sent.has(form)) {
      event.preventDefault();
      return;
    }
    fill();
    // Only after the browser has read the pressed button's name and value.
    sent.set(form, null);
    setTimeout(() => busy(form, pressed));
    setTimeout(() => release(form), 10000);
  });
  addEventListener("pageshow", () => [...sent.keys()].forEach(release));

  // --- After a wrong answer "back" and "reload" show the page again, and send nothing twice.
  if (root.dataset.answer !== undefined) history.replaceState(null, "", root.dataset.answer);

  // --- The code: pasted with the message around it, or read from the SMS by the browser.
  const code = byId("code");
  const found = (text, digits) => {
    const last = new RegExp(`#(\\d{${digits}})\\s*$`).exec(text);
    if (last) return last[1];
    const runs = text.match(/\d(?:[ -]?\d)*/g) || [];
    const fitting = runs.map((run) => run.replace(/\D/g, "")).filter((run) => run.length === Number(digits));
    return fitting.length ? fitting[0] : "";
  };
  if (code) {
    code.addEventListener("paste", (event) => {
      const pasted = event.clipboardData?.getData("text") || "";
      const value = /\D/.test(pasted.trim()) ? found(pasted, code.dataset.digits || "") : "";
      if (!value) return;
      event.preventDefault();
      code.value = value;
    });
    if ("OTPCredential" in window && code.autocomplete === "one-time-code") {
      const stop = new AbortController();
      code.form?.addEventListener("submit", () => stop.abort());
      navigator.credentials.get({ otp: { transport: ["sms"] }, signal: stop.signal }).then((otp) => {
        if (!otp?.code) return;
        code.value = otp.code;
        code.form.requestSubmit(code.form.querySelector(".main"));
      }).catch(() => {});
    }
  }

  // --- Buttons that only script can serve
  const copied = async (source) => {
    const text = ("value" in source ? source.value : source.textContent).trim();
    const plain = source.id === "link" ? text : text.replace(/\s/g, "");
    try {
      await navigator.clipboard.writeText(plain);
      return true;
    } catch {
      const range = document.createRange();
      if (source.select) source.select();
      else {
        range.selectNodeContents(source);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
      }
      return document.execCommand("copy");
    }
  };
  for (const button of all("button[data-copies]")) {
    button.hidden = false;
    const words = button.querySelector("span"), before = words.textContent;
    words.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      if (!await copied(byId(button.dataset.copies))) return;
      words.textContent = button.dataset.other;
      setTimeout(() => { words.textContent = before; }, 3000);
    });
  }
  for (const button of all("button[data-shows]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const field = byId(button.dataset.shows), words = button.textContent;
      field.type = field.type === "password" ? "text" : "password";
      button.textContent = button.dataset.other;
      button.dataset.other = words;
    });
  }
  const link = byId("link");
  if (link) link.addEventListener("focus", () => link.select());

  // --- The last page asks for the state of the answer until that is settled; it changes in place.
  const state = byId("state");
  const look = async (times) => {
    const address = times > 1 ? state.dataset.live : `${state.dataset.live}&looked=10`; // it says that it takes longer
    try {
      const answer = await fetch(address, { headers: { Accept: "application/json" }, cache: "no-store" });
      const now = await answer.json();
      if (!["open", "heard", "unclear"].includes(now.state)) return location.reload(); // another heading
      state.dataset.state = now.state;
      put(state.querySelector(".words"), now.text);
      if (now.state !== "open") return;
    } catch { /* offline: look again */ }
    if (times > 1) setTimeout(look, 2000, times - 1);
  };
  if (state?.dataset.live && !byId("chat-code")) setTimeout(look, 1000, 10);

  fill();
  count();
  if (document.querySelector("[data-seconds]")) setInterval(count, 1000);
})();
