"use strict";
// What script adds to the configuration page, which works without it: copy buttons, one submit per form, and a session
// that lasts while an admin types.
(() => {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    const field = document.getElementById(button.dataset.copy);
    if (!field || !navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const before = button.innerHTML;
      await navigator.clipboard.writeText(field.value ?? field.innerText);
      button.textContent = button.dataset.done;
      setTimeout(() => { button.innerHTML = before; }, 2000);
    });
  }

  for (const button of document.querySelectorAll("button[data-print]")) {
    button.hidden = false;
    button.addEventListener("click", () => window.print());
  }

  // A row that scrolls, such as tabs on a phone, begins with what is chosen in sight.
  for (const chosen of document.querySelectorAll(":is(.tabs, .chips, .range) > [aria-current]")) {
    const row = chosen.parentElement;
    row.scrollLeft += chosen.getBoundingClientRect().left - row.getBoundingClientRect().left - row.clientWidth / 3;
  }

  // A second tap on the same form does nothing until the response arrives; a download brings no new page.
  const sent = new Set();
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || form.dataset.repeats !== undefined) return;
    if (sent.has(form)) {
      event.preventDefault();
      return;
    }
    sent.add(form);
    setTimeout(() => sent.delete(form), 5000);
  });
  window.addEventListener("pageshow", () => sent.clear());

  // An admin who types is active: the session must not end during a long form. Reported at most once a minute.
  let reportedAt = 0;
  document.addEventListener("input", () => {
    if (!document.querySelector("form.who") || Date.now() - reportedAt < 60000) return;
    reportedAt = Date.now();
    fetch("/admin/account", { method: "HEAD" }).catch(() => {});
  });

  // Single keys: / leads to the search, g and a letter to a section, ? shows them all. Not while an admin types, not as
  // a part of another shortcut, and not where they are switched off (WCAG 2.2, 2.1.4). That is kept in the browser: who
  // speaks to one device may type on another, and it must hold before anything is loaded.
  const hasKeys = () => localStorage.getItem("keys") !== "off";
  const marks = () => document.querySelectorAll(".seek kbd").forEach((mark) => { mark.hidden = !hasKeys(); });
  const choice = document.querySelector("[data-keys]");
  if (choice) {
    const box = choice.querySelector("input");
    choice.hidden = false;
    box.checked = hasKeys();
    box.addEventListener("change", () => {
      localStorage.setItem("keys", box.checked ? "on" : "off");
      marks();
    });
  }
  marks();
  const search = () => {
    const box = [...document.querySelectorAll(".seek input[name=q]")].find((one) => one.checkVisibility());
    box?.focus();
    box?.select();
    return box;
  };
  let isLed = 0; // when g was pressed
  document.addEventListener("keydown", (event) => {
    if (!hasKeys() || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const wasLed = Date.now() - isLed < 1500;
    if (event.key !== "Shift") isLed = 0;
    const entry = wasLed && document.querySelector(`#menu a[data-key="${CSS.escape(event.key)}"]`);
    if (entry) {
      event.preventDefault();
      entry.click();
    } else if (event.key === "g") {
      isLed = Date.now();
    } else if (event.key === "/") {
      if (search()) event.preventDefault();
    } else if (event.key === "?") {
      document.getElementById("keys")?.togglePopover?.();
    }
  });

  // A form with unsaved changes asks before the admin leaves it.
  let isChanged = document.querySelector("[data-unsaved]") !== null;
  document.addEventListener("input", (event) => { if (event.target.form?.dataset.keep !== undefined) isChanged = true; });
  document.addEventListener("submit", () => { isChanged = false; });
  window.addEventListener("beforeunload", (event) => { if (isChanged) event.preventDefault(); });
})();
