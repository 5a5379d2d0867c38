"use strict";
// Passkeys: a button with data-passkey asks the server what to ask the device, puts what the device returns into its
// form, and sends the form. Without script, or where a browser has no passkeys, the buttons stay hidden.
(() => {
  if (!window.PublicKeyCredential || !navigator.credentials) return;

  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (char) => char.charCodeAt(0));
  const text = (buffer) => {
    const chars = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
    return btoa(chars).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  };
  const named = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

  // What the server sends is JSON, so everything binary in it is Base64.
  const asked = async (options) => {
    const publicKey = { ...options, challenge: bytes(options.challenge) };
    if (options.user) {
      publicKey.user = { ...options.user, id: bytes(options.user.id) };
      publicKey.excludeCredentials = named(options.excludeCredentials);
      return navigator.credentials.create({ publicKey });
    }
    publicKey.allowCredentials = named(options.allowCredentials);
    return navigator.credentials.get({ publicKey });
  };

  const written = (credential) => {
    const response = {};
    for (const name of ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"]) {
      if (credential.response[name]) response[name] = text(credential.response[name]);
    }
    return JSON.stringify({ id: credential.id, rawId: text(credential.rawId), type: credential.type, response });
  };

  for (const button of document.querySelectorAll("button[data-passkey]")) {
    const form = button.form;
    const note = form.querySelector("[data-passkey-note]");
    if (form.dataset.passkeyOnly !== undefined) form.hidden = false;
    button.hidden = false;
    button.addEventListener("click", async () => {
      note.hidden = true;
      button.disabled = true;
      try {
        const answer = await fetch(button.dataset.passkey, { credentials: "same-origin" });
        if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
        const field = form.querySelector("input[name=passkey]");
        field.value = written(await asked(await answer.json()));
        for (const code of form.querySelectorAll("input[name=second_factor]")) code.required = false;
        form.requestSubmit(form.querySelector("button:not([type=button])"));
      } catch (_error) {
        note.hidden = false;
      } finally {
        button.disabled = false;
      }
    });
  }
})();
