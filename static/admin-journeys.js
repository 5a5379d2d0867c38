"use strict";
// The form of a journey: the preview updates while an admin types. Without script its button updates it.
(() => {
  const form = document.querySelector("form[data-preview]");
  if (!form) return;
  let timer = 0;
  let latest = 0;

  const renew = async () => {
    const mine = ++latest;
    const answer = await fetch(form.dataset.preview, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (!answer.ok || answer.redirected || mine !== latest) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("preview");
    if (fresh) document.getElementById("preview").replaceWith(fresh);
  };

  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { renew().catch(() => {}); }, 400);
  });
})();
