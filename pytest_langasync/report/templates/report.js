"use strict";
(() => {
  const PAGE = 100;
  const cases = JSON.parse(document.getElementById("data").textContent);
  const body = document.querySelector("#cases tbody");
  const find = (id) => document.getElementById(id);
  const controls = ["search", "verdict", "group", "change"].map(find);
  const [search, verdict, group, change] = controls;
  let sorted = { by: "", down: false };
  let matching = [];
  let drawn = 0;

  const usd = (amount) => {
    if (amount === null || amount === undefined) return "unknown";
    if (amount === 0 || Math.abs(amount) >= 1) return "$" + amount.toFixed(2);
    return "$" + amount.toFixed(Math.max(4, 1 - Math.floor(Math.log10(Math.abs(amount)))));
  };
  const short = (value) => (typeof value === "number" ? String(+value.toPrecision(3)) : String(value));
  const tokens = (one) => one.calls.reduce((sum, c) => sum + (c.input_tokens || 0) + (c.output_tokens || 0), 0);
  const written = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 1));

  // Every text goes in as text: what a model wrote is never markup.
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };

  const moved = (one) => {
    const before = one.change.scores || {};
    const parts = Object.keys(before).map((name) => `${name} ${short(before[name])} → ${short(one.scores[name].value)}`);
    return [one.change.verdict === "added" ? "new" : one.change.verdict, ...parts].filter(Boolean).join(", ");
  };
  const scores = (one) => Object.entries(one.scores).map(([name, score]) => `${name} ${short(score.value)}`).join(", ");
  const haystack = (one) =>
    [one.id, scores(one), ...Object.values(one.scores).map((s) => s.reason || ""),
      ...one.calls.flatMap((c) => [c.asked, c.answered, c.job_id || "", c.model])].join("\n").toLowerCase();
  const first = (one) => {
    const value = Object.values(one.scores).map((score) => score.value)[0];
    return value === undefined ? -Infinity : Number(value);
  };
  const drop = (one) => {
    const before = one.change.scores || {};
    const drops = Object.keys(before).map((name) => Number(one.scores[name].value) - Number(before[name]));
    return Math.min(0, ...drops.filter((n) => !Number.isNaN(n))) - (one.change.verdict === "newly failing" ? 1e9 : 0);
  };
  const KEYS = {
    id: (one) => one.id, verdict: (one) => one.verdict, score: first, change: drop, tokens,
    cost: (one) => (one.cost === null ? -1 : one.cost),
  };

  const section = (cell, title, text) => {
    if (text === "" || text === undefined || text === null) return;
    cell.append(make("h3", title), make("pre", written(text)));
  };

  const callFacts = (call) => [
    call.served_model || call.model, `status ${call.status}`, call.job_id || "real time",
    call.source === "cache" ? `from the cache, ${Math.round(call.age_seconds)} s old` : call.source,
    `${call.input_tokens ?? "unknown"} tokens in, ${call.output_tokens ?? "unknown"} out`, `paid ${usd(call.paid_usd)}`,
  ].join(" · ");

  const detail = (one, id) => {
    const row = make("tr", undefined, "detail");
    const cell = make("td");
    row.id = id;
    cell.colSpan = 6;
    for (const [name, score] of Object.entries(one.scores)) {
      cell.append(make("h3", `${name}: ${short(score.value)}`));
      if (score.reason) cell.append(make("pre", score.reason));
    }
    if (moved(one)) cell.append(make("h3", "Against the baseline"), make("p", moved(one)));
    section(cell, "Expected", one.case.expected);
    one.calls.forEach((call, index) => {
      cell.append(make("h3", one.calls.length > 1 ? `Call ${index + 1}` : "Call"), make("p", callFacts(call)));
      section(cell, "Asked", call.asked);
      section(cell, "Answered", call.answered);
    });
    one.waits.forEach((job) => cell.append(make("p", `waits for ${job || "a job that was not sent"}`)));
    if (!cell.childNodes.length) cell.append(make("p", "No calls and no scores."));
    row.append(cell);
    return row;
  };

  const toggle = (button, row, one) => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) row.nextSibling.remove();
    else row.after(detail(one, button.getAttribute("aria-controls")));
  };

  const draw = (one, number) => {
    const row = make("tr");
    const name = make("th");
    const button = make("button", one.id, "open");
    name.scope = "row";
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-controls", `case-${number}`);
    button.addEventListener("click", () => toggle(button, row, one));
    name.append(button);
    const tag = make("td");
    tag.append(make("span", one.verdict, `tag ${one.verdict}`));
    row.append(name, tag, make("td", scores(one)), make("td", moved(one)),
      make("td", tokens(one).toLocaleString("en"), "n"), make("td", one.calls.length ? usd(one.cost) : "", "n"));
    return row;
  };

  const more = () => {
    const page = matching.slice(drawn, drawn + PAGE);
    body.append(...page.map((one, index) => draw(one, drawn + index)));
    drawn += page.length;
    find("more").hidden = drawn >= matching.length;
    find("shown").textContent = `${matching.length.toLocaleString("en")} of ${cases.length.toLocaleString("en")} cases`;
  };

  const changed = (one) => !change.value || one.change.verdict === change.value ||
    (change.value === "moved" && Boolean(one.change.scores));

  const refresh = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    matching = cases.filter((one) =>
      (!verdict.value || one.verdict === verdict.value) && (!group.value || one.group === group.value) &&
      changed(one) && words.every((word) => (one.text ??= haystack(one)).includes(word)));
    if (sorted.by) {
      const key = KEYS[sorted.by];
      const sign = sorted.down ? -1 : 1;
      matching = matching.map((one) => [key(one), one])
        .sort(([a], [b]) => (a < b ? -sign : a > b ? sign : 0)).map(([, one]) => one);
    }
    drawn = 0;
    body.replaceChildren();
    more();
  };

  const options = (select, values) =>
    [...new Set(values)].filter(Boolean).sort().forEach((value) => {
      const option = make("option", value);
      option.value = value;
      select.append(option);
    });

  options(verdict, cases.map((one) => one.verdict));
  options(group, cases.map((one) => one.group));
  change.parentElement.hidden = !cases.some((one) => Object.keys(one.change).length);
  document.querySelectorAll("th[data-sort]").forEach((head, _, heads) =>
    head.firstElementChild.addEventListener("click", () => {
      sorted = { by: head.dataset.sort, down: sorted.by === head.dataset.sort && !sorted.down };
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      refresh();
    }));
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  controls.forEach((control) => control.addEventListener("input", refresh));
  find("more").addEventListener("click", more);
  refresh();
})();
