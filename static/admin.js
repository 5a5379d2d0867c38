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

  // A key of its own for the search: not while an admin types, not as a part of another shortcut, and not where it is
  // switched off in this browser (WCAG 2.2, 2.1.4).
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
  document.addEventListener("keydown", (event) => {
    if (!hasKeys()) return;
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest("input, textarea, select, [contenteditable]")) return;
    const boxes = [...document.querySelectorAll(".seek input[type=search]")];
    const box = boxes.find((one) => one.checkVisibility());
    if (!box) return;
    event.preventDefault();
    box.focus();
    box.select();
  });

  // A form with unsaved changes asks before the admin leaves it.
  let isChanged = document.querySelector("[data-unsaved]") !== null;
  document.addEventListener("input", (event) => { if (event.target.form?.dataset.keep !== undefined) isChanged = true; });
  document.addEventListener("submit", () => { isChanged = false; });
  window.addEventListener("beforeunload", (event) => { if (isChanged) event.preventDefault(); });
})();
