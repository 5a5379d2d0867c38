"use strict";
// The search box shows what it finds as a panel while an admin types: the combobox of the WAI-ARIA Authoring Practices.
// Without script its form leads to a page with the same. What was typed is posted, and stands in no address. It asks
// after a pause, for one text at a time, and never twice in a row for the same.
(() => {
  const PAUSE = 250; // milliseconds without a key
  const LEAST = 2; // characters

  for (const form of document.querySelectorAll("form.seek")) {
    const box = form.querySelector("input[name=q]");
    const panel = document.createElement("div");
    const said = document.createElement("span");
    let timer = 0;
    let asking = null;
    let shown = ""; // the text that the panel is about

    box.type = "text"; // a combobox may not be of type search
    box.enterKeyHint = "search";
    panel.className = "panel";
    panel.hidden = true;
    said.className = "visually-hidden";
    said.setAttribute("role", "status");
    form.append(panel, said);
    for (const [name, value] of [["role", "combobox"], ["aria-autocomplete", "list"], ["aria-expanded", "false"]]) {
      box.setAttribute(name, value);
    }

    const options = () => [...panel.querySelectorAll("[role=option]")];
    const chosen = () => panel.querySelector("[aria-selected=true]");
    const choose = (option) => {
      chosen()?.setAttribute("aria-selected", "false");
      option?.setAttribute("aria-selected", "true");
      option?.scrollIntoView({ block: "nearest" });
      if (option) box.setAttribute("aria-activedescendant", option.id);
      else box.removeAttribute("aria-activedescendant");
    };
    const close = () => {
      clearTimeout(timer);
      asking?.abort();
      shown = "";
      panel.hidden = true;
      panel.replaceChildren();
      said.textContent = "";
      box.setAttribute("aria-expanded", "false");
      box.removeAttribute("aria-controls");
      choose(null);
    };
    const show = (found) => {
      choose(null);
      panel.replaceChildren(...found.childNodes);
      panel.hidden = false;
      said.textContent = found.dataset.said;
      const list = panel.querySelector("[role=listbox]");
      if (list) list.id = `${box.id}-found`;
      if (list) box.setAttribute("aria-controls", list.id);
      else box.removeAttribute("aria-controls");
      box.setAttribute("aria-expanded", String(list !== null));
      options().forEach((option, place) => { option.id = `${box.id}-found-${place}`; });
    };
    const ask = async (text) => {
      asking?.abort();
      const mine = new AbortController();
      asking = mine;
      const fields = new URLSearchParams(new FormData(form));
      fields.set("panel", "1");
      const answer = await fetch(form.action, { method: "POST", body: fields, signal: mine.signal });
      if (!answer.ok || answer.redirected) return close(); // such as a session that ended: the form says so
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = page.getElementById("found");
      if (mine.signal.aborted || !found || document.activeElement !== box) return;
      shown = text;
      show(document.adoptNode(found));
    };

    box.addEventListener("input", () => {
      clearTimeout(timer);
      const text = box.value.trim();
      if (text.length < LEAST) return close();
      if (text !== shown) timer = setTimeout(() => { ask(text).catch(() => {}); }, PAUSE);
    });
    box.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      const all = options();
      const at = all.indexOf(chosen());
      if (event.key === "Escape") {
        if (panel.hidden && !box.value) return; // a menu around the box closes
        event.preventDefault();
        if (panel.hidden) box.value = "";
        close();
      } else if (panel.hidden || !all.length) {
        return;
      } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        event.preventDefault();
        const step = event.key === "ArrowDown" ? 1 : -1;
        const next = at < 0 && step < 0 ? all.length - 1 : at + step;
        choose(all[next] ?? null); // past either end, the box itself
      } else if (event.key === "Enter" && at >= 0) {
        event.preventDefault();
        location.href = all[at].dataset.path;
      }
    });
    panel.addEventListener("mousedown", (event) => { event.preventDefault(); }); // the box keeps the focus
    panel.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) location.href = option.dataset.path;
    });
    box.addEventListener("blur", close);
    form.addEventListener("submit", close);
    window.addEventListener("pagehide", close);
  }
})();
