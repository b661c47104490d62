/* Acting on a list: what was chosen is frozen and shown, sent to the JSON API in portions, and each result is shown. */
(() => {
  "use strict";

  const PORTION = 1000; // what one request of the API takes
  const SHOWN = 2000;
  const TRIES = 5;

  const number = (count) => count.toLocaleString("en-US");
  const element = (name, text, className = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    made.className = className;
    return made;
  };

  const name = (item) => (typeof item === "string" ? item : item.name ?? `${item.service} ${item.number}`);

  const said = (response, answer) => {
    const { title, detail } = settleProblem(response, answer);
    return [title, detail].filter(Boolean).join(": ");
  };

  // Choosing: one's own item, what a filter matches, or what is ticked.
  const chosenBy = async (button, form) => {
    if (button.dataset.item) return [JSON.parse(button.dataset.item)];
    if (button.dataset.from) {
      const response = await fetch(button.dataset.from, { headers: { Accept: "application/json" }, credentials: "same-origin" });
      const answer = await response.json();
      if (!response.ok) throw new Error(said(response, answer));
      return answer.items;
    }
    const ticked = [...document.querySelectorAll("[data-pick]:checked")].map((box) => JSON.parse(box.dataset.pick));
    return "reversed" in form.dataset ? ticked.reverse() : ticked;
  };

  const preview = (form, items) => {
    const place = form.querySelector("[data-preview]");
    form.querySelector("[data-confirms]").disabled = !items.length;
    form.items = items;
    if (!items.length) {
      place.replaceChildren(element("p", "Nothing is chosen: tick what this is for.", "muted"));
      return;
    }
    const list = document.createElement("details");
    const names = element("ol", "", "mono");
    names.append(...items.slice(0, SHOWN).map((item) => element("li", name(item))));
    if (items.length > SHOWN) names.append(element("li", `and ${number(items.length - SHOWN)} more`));
    list.append(element("summary", "Exactly these, whatever comes meanwhile"), names);
    const count = element("p", "");
    count.append(element("b", number(items.length), "num"), ` ${items.length === 1 ? form.dataset.one : form.dataset.many}`);
    place.replaceChildren(count, list);
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-opens]");
    const form = button && document.getElementById(button.dataset.opens).querySelector("form[data-acts]");
    if (!form || form.isUnderWay) return;
    const place = form.querySelector("[data-preview]");
    const mine = (form.opening = (form.opening ?? 0) + 1); // what an earlier opening still reads is not for this one
    form.items = [];
    form.querySelector("[data-confirms]").disabled = true;
    form.dataset.done = "";
    if (form.elements.unverified) form.elements.unverified.checked = false; // asked for anew each time
    place.replaceChildren(element("p", "Reading what it is for…", "muted"));
    try {
      const items = await chosenBy(button, form);
      if (form.opening === mine) preview(form, items);
    } catch (error) {
      if (form.opening !== mine) return;
      place.replaceChildren(element("p", `It cannot be read: ${error.message}`, "s-bad"));
    }
  });

  // Ticking: the box of the head ticks all that are shown; the buttons say how many.
  const count = () => {
    const boxes = [...document.querySelectorAll("[data-pick]")];
    const ticked = boxes.filter((box) => box.checked).length;
    for (const place of document.querySelectorAll("[data-ticked]")) place.textContent = number(ticked);
    for (const button of document.querySelectorAll("[data-of-ticked]")) button.disabled = !ticked;
    for (const all of document.querySelectorAll("[data-pick-all]")) {
      all.checked = ticked > 0 && ticked === boxes.length;
      all.indeterminate = ticked > 0 && ticked < boxes.length;
    }
  };
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-pick-all]"))
      for (const box of document.querySelectorAll("[data-pick]")) box.checked = event.target.checked;
    if (event.target.matches("[data-pick], [data-pick-all]")) count();
  });
  document.addEventListener("DOMContentLoaded", count);
  window.addEventListener("pageshow", count);

  // Acting: portion by portion; what could not be asked for is not done, and is said.
  const post = async (path, body) => {
    for (let tries = 1; ; tries++) {
      const response = await fetch(path, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        credentials: "same-origin",
      });
      const answer = await response.json().catch(() => ({}));
      if (response.status !== 429 || tries === TRIES) return { response, answer };
      await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("Retry-After") || 1)));
    }
  };

  const send = async (form, portion, reason, more) => {
    if (!form.dataset.field) {
      const path = form.dataset.acts.replace("{}", encodeURIComponent(portion[0]));
      const { response, answer } = await post(path, { reason });
      if ([401, 403, 429, 503].includes(response.status)) throw new Error(said(response, answer));
      return [response.ok ? { words: republished(answer) } : { error: said(response, answer) }];
    }
    const { response, answer } = await post(form.dataset.acts, { [form.dataset.field]: portion, reason, ...more });
    if (!response.ok) throw new Error(said(response, answer));
    return answer.results.map((one) => ({
      error: one.error,
      words: one.place ? `${one.earlier ? "had been sent before, to" : "sent to"} ${one.place}` : form.dataset.word,
    }));
  };

  const republished = (answer) => {
    const events = answer.republished.map((one) => `${one.event_type} on ${one.topic}`);
    const dead = answer.dead.map((one) => `${one.event_type} is a dead row of its outbox: put that back first`);
    return events.concat(dead).join(", ") || "nothing: no service lacks an event";
  };

  const show = (form, items, results, stopped) => {
    const refused = results.filter((one) => one.error).length;
    const title = `${number(results.length - refused)} ${form.dataset.word}${refused ? `, ${number(refused)} not: why is beside each` : ""}`;
    const card = element("div", "", `cause t-${refused || stopped ? "warn" : "ok"}`);
    card.append(element("b", title));
    if (stopped) card.append(element("p", `Stopped after ${number(results.length)} of ${number(items.length)}: ${stopped}`));
    const list = element("ul", "", "results");
    const order = [...results.keys()].sort((a, b) => Boolean(results[b].error) - Boolean(results[a].error) || a - b);
    for (const at of order.slice(0, SHOWN)) {
      const line = element("li", "");
      line.append(element("span", name(items[at]), "mono"), " ", element("span", results[at].error ?? results[at].words, results[at].error ? "t-warn" : "t-ok"));
      list.append(line);
    }
    if (order.length > SHOWN) list.append(element("li", `and ${number(order.length - SHOWN)} more`));
    form.querySelector(".answer").replaceChildren(card, list);
  };

  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-acts]");
    if (!form) return;
    event.preventDefault();
    if (form.isUnderWay) return;
    const { items } = form;
    const reason = new FormData(form).get("reason");
    const more = form.elements.unverified?.checked ? { unverified: true } : {};
    const step = form.dataset.field ? PORTION : 1;
    const bar = document.createElement("progress");
    bar.max = items.length;
    const line = element("p", "", "num muted");
    form.querySelector("[data-confirms]").disabled = true;
    form.querySelector(".answer").replaceChildren(bar, line);
    form.isUnderWay = true;
    const results = [];
    let stopped = "";
    while (results.length < items.length && !stopped) {
      bar.value = results.length;
      line.textContent = `${number(results.length)} of ${number(items.length)}`;
      try {
        results.push(...(await send(form, items.slice(results.length, results.length + step), reason, more)));
      } catch (error) {
        stopped = error instanceof TypeError ? "the API does not answer; the operator log says what it did of the last portion" : error.message;
      }
      if (!form.closest("dialog").open && results.length < items.length) stopped ||= "it was closed";
    }
    form.isUnderWay = false;
    form.dataset.done = results.length ? "yes" : "";
    form.querySelector("[data-confirms]").disabled = results.length > 0;
    show(form, items, results, stopped);
    if (!form.closest("dialog").open) location.reload();
  });

  // What was done is seen on the page: it is loaded anew.
  document.addEventListener(
    "close",
    (event) => {
      if (event.target.querySelector("form[data-acts]")?.dataset.done) location.reload();
    },
    true,
  );
})();
