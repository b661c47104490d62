/* The console's own script: theme, search key, streams of tabs in the background, and forms that call the JSON API. */
(() => {
  "use strict";

  // Theme: as the system says, or as chosen; before anything is painted.
  const THEMES = ["system", "light", "dark"];
  const root = document.documentElement;
  const chosen = () => {
    try {
      const theme = localStorage.getItem("settle-theme");
      return THEMES.includes(theme) ? theme : "system";
    } catch {
      return "system";
    }
  };
  const paint = () => {
    root.dataset.theme = chosen();
    const button = document.querySelector("[data-theme-switch]");
    if (button) {
      button.hidden = false;
      button.querySelector("span").textContent = chosen();
    }
  };
  paint();

  const isTyping = (element) => element.matches("input, textarea, select, [contenteditable]");

  document.addEventListener("keydown", (event) => {
    const search = document.querySelector("[data-search]");
    if (event.key === "/" && search && !isTyping(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });

  document.addEventListener("click", (event) => {
    const target = event.target.closest("button, a");
    if (!target) return;
    if (target.matches("[data-theme-switch]")) {
      try {
        localStorage.setItem("settle-theme", THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length]);
      } catch {
        /* a browser that remembers nothing follows the system */
      }
      paint();
    } else if (target.matches("[data-opens]")) {
      const dialog = document.getElementById(target.dataset.opens);
      if (dialog.querySelector("form").isUnderWay) return; // closed, and not answered yet: what is done now has its end first
      dialog.querySelector(".answer").replaceChildren();
      dialog.querySelector("[data-confirms]").disabled = false;
      dialog.showModal();
    } else if (target.matches("[data-closes]")) {
      target.closest("dialog").close();
    }
  });

  // The stream of a page: an EventSource that connects again by itself, whatever ended it, and notices silence, which
  // the server breaks every five seconds. A tab in the background lets go of its own, as browsers keep six
  // connections to a server. What is shown is as of the moment when it was let go, until the stream is open again.
  const SILENT_MS = 15_000;
  const PAUSES_MS = [500, 1_000, 2_000, 5_000];

  class Stream extends EventTarget {
    readyState = EventSource.CONNECTING; // and never CLOSED before close(): htmx would open another one
    #url;
    #source = null;
    #timer = 0;
    #failed = 0;
    #names = new Set(["beat"]);

    constructor(url) {
      super();
      this.#url = url;
      if (!document.hidden) this.resume(); // a tab that is opened in the background has none yet
    }

    addEventListener(name, listener) {
      super.addEventListener(name, listener);
      if (!this.#names.has(name)) {
        this.#names.add(name);
        this.#source?.addEventListener(name, this.#hear);
      }
    }

    resume() {
      if (this.#source || this.readyState === EventSource.CLOSED) return;
      clearTimeout(this.#timer);
      this.#source = new EventSource(this.#url);
      for (const name of this.#names) this.#source.addEventListener(name, this.#hear);
      this.#source.onopen = (event) => {
        this.readyState = EventSource.OPEN;
        this.#failed = 0;
        this.#listen();
        this.onopen?.(event);
      };
      this.#source.onerror = () => this.#lose();
      this.#listen();
    }

    pause() {
      clearTimeout(this.#timer);
      this.#source?.close();
      this.#source = null;
    }

    close() {
      this.pause();
      this.readyState = EventSource.CLOSED;
    }

    #hear = (event) => {
      this.#listen();
      this.dispatchEvent(new MessageEvent(event.type, { data: event.data }));
    };

    #listen() {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#lose(), SILENT_MS);
    }

    #lose() {
      this.pause();
      this.readyState = EventSource.CONNECTING;
      const pause = PAUSES_MS[Math.min(this.#failed++, PAUSES_MS.length - 1)];
      this.#timer = setTimeout(() => this.resume(), pause);
      showConnection(false);
      askWhoIsSignedIn();
    }
  }

  let stream = null;
  let lostAt = null;

  // A stream that is refused does not say why: the session may have ended.
  const askWhoIsSignedIn = async () => {
    const answer = await fetch("/console/settings", { credentials: "same-origin" }).catch(() => null);
    const banner = document.querySelector("[data-signed-out]");
    if (!banner || answer?.status !== 401) return;
    stream.close();
    document.querySelector("[data-disconnected]").hidden = true; // nothing is tried again
    banner.hidden = false;
  };

  const showConnection = (isThere) => {
    if (isThere) lostAt = null;
    else lostAt ??= new Date();
    const banner = document.querySelector("[data-disconnected]");
    if (!banner) return;
    if (lostAt) {
      const time = banner.querySelector("time");
      time.dateTime = lostAt.toISOString();
      time.textContent = lostAt.toISOString().slice(11, 19);
    }
    banner.hidden = isThere;
  };

  document.addEventListener("DOMContentLoaded", () => {
    paint();
    document.querySelector(".side [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    if (!window.htmx) return;
    htmx.createEventSource = (url) => {
      stream = new Stream(url);
      return stream;
    };
  });
  document.addEventListener("htmx:sseOpen", () => showConnection(true));
  document.addEventListener("visibilitychange", () => {
    if (!stream) return;
    if (document.hidden) {
      lostAt ??= new Date();
      stream.pause();
    } else {
      stream.resume();
    }
  });

  // What the API says to a program that it does not know is not for who has signed in.
  const ENDED = "Your session has ended";
  window.settleProblem = (response, answer) =>
    response.status === 401
      ? { title: ENDED, detail: "Nothing was done. Sign in in another tab and do this again: what you wrote is still here." }
      : { title: answer.title ?? `The API answered ${response.status}`, detail: answer.detail ?? "" };

  // Actions: a form in a dialog is one call of the JSON API; the answer is shown in words.
  const say = (place, tone, title, lines) => {
    const card = document.createElement("div");
    card.className = `cause t-${tone}`;
    const bold = document.createElement("b");
    bold.textContent = title;
    card.append(bold);
    for (const line of lines) {
      const text = document.createElement("p");
      text.textContent = line;
      card.append(text);
    }
    place.replaceChildren(card);
  };

  // A field that is empty is left out; numbers and lists are what the API takes them for.
  const fieldsOf = (form) => {
    const fields = {};
    for (const control of form.querySelectorAll("[name]")) {
      const { name, value, dataset, type } = control;
      if (value === "" || (type === "checkbox" && !control.checked)) continue;
      if ("list" in dataset) (fields[name] ??= []).push(value);
      else fields[name] = "number" in dataset ? Number(value) : value;
    }
    return fields;
  };

  const inWords = (answer) => {
    const lines = [];
    for (const event of answer.republished ?? []) lines.push(`${event.event_type} on ${event.topic}`);
    for (const event of answer.dead ?? []) lines.push(`${event.event_type} is a dead row of its outbox: put that back first`);
    if (answer.republished && !lines.length) lines.push("nothing: no service lacks an event");
    if (answer.request_id) lines.push(`operator log: ${answer.request_id}`);
    return lines;
  };

  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-call]");
    if (!form) return;
    event.preventDefault();
    const place = form.querySelector(".answer");
    const button = form.querySelector("[data-confirms]");
    if (form.isUnderWay) return;
    form.isUnderWay = true;
    button.disabled = true;
    const fields = fieldsOf(form);
    const body = Object.keys(fields).length ? JSON.stringify(fields) : undefined;
    const headers = body ? { "Content-Type": "application/json" } : {};
    try {
      const response = await fetch(form.dataset.call, { method: "POST", headers, body, credentials: "same-origin" });
      const answer = await response.json().catch(() => ({}));
      if (response.ok) {
        say(place, "ok", form.dataset.done, inWords(answer));
        if (answer.key) {
          const key = document.createElement("pre");
          key.textContent = answer.key;
          place.firstElementChild.append(key);
        }
        const dialog = form.closest("[data-then-again]");
        if (dialog) dialog.addEventListener("close", () => location.reload());
      } else {
        const { title, detail } = settleProblem(response, answer);
        say(place, "bad", title, [detail]);
        button.disabled = false;
      }
    } catch {
      say(place, "bad", "The API does not answer", ["It is not known whether this was done: see the operator log."]);
      button.disabled = false;
    }
    form.isUnderWay = false;
  });
})();
