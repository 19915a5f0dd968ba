"use strict";
(() => {
  const PAGE = 100;
  const find = (id) => document.getElementById(id);
  // A case refers to its texts by number, since many cases share theirs.
  const { cases, texts, left_out: leftOut } = JSON.parse(find("data").textContent);
  const table = find("cases");
  const body = table.tBodies[0];
  const controls = ["search", "verdict", "group", "change"].map(find);
  const [search, verdict, group, change] = controls;
  const byScore = find("score");
  const collator = new Intl.Collator("en", { numeric: true });
  let sorted = { by: "", down: false };
  let matching = [];
  let drawn = 0;

  const usd = (amount) => {
    if (amount === null || amount === undefined) return "unknown";
    if (amount === 0 || Math.abs(amount) >= 1) return "$" + amount.toFixed(2);
    return "$" + amount.toFixed(Math.max(4, 1 - Math.floor(Math.log10(Math.abs(amount)))));
  };
  const count = (number) => number.toLocaleString("en");
  const short = (value) => (typeof value === "number" ? String(+value.toPrecision(3)) : String(value));
  const tokens = (one) => one.calls.reduce((sum, c) => sum + (c.input_tokens || 0) + (c.output_tokens || 0), 0);

  // Every text goes in as text: what a model wrote is never markup.
  const make = (tag, text, name) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (name) element.className = name;
    return element;
  };
  // In an element of its own, so that text from right to left leaves its neighbours where they are.
  const own = (value) => make("bdi", short(value));
  const filled = (element, ...parts) => {
    element.append(...parts);
    return element;
  };

  // ---- what a row shows

  const moves = (one) => one.scores.filter((score) => score.before !== undefined);
  const listed = (cell, scores, words) => filled(cell, ...scores.map((score) =>
    filled(make("span", undefined, "score"), own(score.name), " ", ...words(score))));
  const scored = (one) => listed(make("td"), one.scores, (score) => [own(score.value)]);
  const changes = (one, tag) => listed(make(tag, one.change === "added" ? "new " : one.change && `${one.change} `, "change"),
    moves(one), (score) => [own(score.before), " → ", own(score.value)]);

  const section = (cell, heading, number) => {
    if (number === null) return;
    const left = leftOut[number];
    const text = make("pre", texts[number]);
    text.dir = "auto";
    cell.append(heading);
    if (left) cell.append(make("p", `Cut: ${count(left)} characters from the middle are left out; the JSON report has them.`));
    cell.append(texts[number] ? text : make("p", "empty"));
  };

  const facts = (call) => [
    call.served_model || call.model, `status ${call.status}`, call.job_id || "real time",
    call.source === "cache" ? `from the cache, ${Math.round(call.age_seconds)} s old` : call.source,
    `${call.input_tokens ?? "unknown"} tokens in, ${call.output_tokens ?? "unknown"} out`, `paid ${usd(call.paid_usd)}`,
  ].flatMap((fact, index) => [index ? " · " : "", own(fact)]);

  const detail = (one, id) => {
    const row = make("tr", undefined, "detail");
    const cell = make("td");
    const all = make("div");
    row.id = id;
    cell.colSpan = table.classList.contains("unchanged") ? 5 : 6;
    if (one.parameters.length) all.append(filled(make("p"), ...one.parameters.flatMap(([name, value], index) => [index ? " · " : "", own(name), " = ", own(value)])));
    section(all, make("h3", "Failure"), one.failure);
    for (const score of one.scores) {
      const heading = filled(make("h3"), own(score.name), ": ", own(score.value));
      all.append(heading);
      section(all, heading, score.reason);
    }
    if (one.change || moves(one).length) all.append(make("h3", "Against the baseline"), changes(one, "p"));
    section(all, make("h3", "Input"), one.input);
    section(all, make("h3", "Expected"), one.expected);
    section(all, make("h3", "Output"), one.output);
    one.calls.forEach((call, index) => {
      all.append(make("h3", one.calls.length > 1 ? `Call ${index + 1}` : "Call"), filled(make("p"), ...facts(call)));
      for (const [who, number] of call.said) section(all, filled(make("h4", "Asked: "), own(who)), number);
      section(all, make("h4", "Answered"), call.answered);
    });
    one.waits.forEach((job) => all.append(filled(make("p", "waits for "), own(job || "a job that was not sent"))));
    if (!all.childNodes.length) all.append(make("p", "No calls and no scores."));
    return filled(row, filled(cell, all));
  };

  const toggle = (button, row, one) => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (open) return row.nextSibling.remove();
    row.after(detail(one, button.getAttribute("aria-controls")));
    // What scrolls must be reachable without a mouse.
    for (const text of row.nextSibling.querySelectorAll("pre")) if (text.scrollHeight > text.clientHeight) text.tabIndex = 0;
  };

  const draw = (one, number) => {
    const name = make("th");
    const button = filled(make("button", undefined, "open"), own(one.id));
    const row = make("tr");
    name.scope = "row";
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-controls", `case-${number}`);
    button.addEventListener("click", () => toggle(button, row, one));
    return filled(row, filled(name, button), filled(make("td"), make("span", one.verdict, `tag ${one.verdict}`)),
      scored(one), changes(one, "td"), make("td", count(tokens(one)), "n"),
      make("td", one.calls.length ? usd(one.cost) : "", "n"));
  };

  const show = (rows) => {
    const fragment = document.createDocumentFragment();
    const page = matching.slice(drawn, drawn + rows);
    page.forEach((one, index) => fragment.append(draw(one, drawn + index)));
    const firstNew = fragment.querySelector("button");
    const clicked = document.activeElement === find("more") || document.activeElement === find("rest");
    body.append(fragment);
    drawn += page.length;
    const all = drawn >= matching.length;
    find("more").hidden = find("rest").hidden = all;
    // The button that had the focus is gone: go on where the new rows begin.
    if (all && clicked && firstNew) firstNew.focus({ preventScroll: true });
    find("shown").textContent = `${count(matching.length)} of ${count(cases.length)} cases` + (all ? "" : `, ${count(drawn)} shown`);
  };

  // ---- which rows, and in what order

  const numbers = (one) => [one.failure, one.input, one.expected, one.output, ...one.scores.map((s) => s.reason),
    ...one.calls.flatMap((c) => [c.answered, ...c.said.map(([, number]) => number)])].filter((n) => n !== null);
  const names = (one) => [one.id, ...one.parameters.flat(), ...one.scores.flatMap((s) => [s.name, short(s.value)]), ...one.waits,
    ...one.calls.flatMap((c) => [c.job_id, c.model, c.served_model])].join("\n").toLowerCase();
  let lower;

  // Each text is looked at once for each word, however many cases share it.
  const finder = (word) => {
    lower ??= texts.map((text) => text.toLowerCase());
    const found = lower.map((text) => text.includes(word));
    return (one) => (one.names ??= names(one)).includes(word) || (one.numbers ??= numbers(one)).some((n) => found[n]);
  };

  const score = (one) => {
    const value = one.scores.find((s) => s.name === byScore.value)?.value;
    return typeof value === "boolean" ? Number(value) : value;
  };
  const drop = (one) => {
    if (!one.change && !moves(one).length) return undefined;
    const drops = moves(one).map((s) => Number(s.value) - Number(s.before)).filter((n) => !Number.isNaN(n));
    return Math.min(0, ...drops) - (one.change === "newly failing" ? 1e9 : 0);
  };
  const KEYS = {
    id: (one) => one.id, verdict: (one) => one.verdict, score, change: drop, tokens,
    cost: (one) => (one.calls.length && one.cost !== null ? one.cost : undefined),
  };

  // Numbers, then labels; what is unknown stays last, whatever the direction.
  const compare = (a, b, sign) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    if (typeof a !== typeof b) return typeof a === "number" ? -sign : sign;
    return sign * (typeof a === "number" ? a - b : collator.compare(a, b));
  };

  const changed = (one) => !change.value || one.change === change.value || (change.value === "moved" && moves(one).length > 0);

  const refresh = () => {
    const finders = search.value.toLowerCase().split(/\s+/).filter(Boolean).map(finder);
    matching = cases.filter((one) =>
      (!verdict.value || one.verdict === verdict.value) && (!group.value || one.group === group.value) &&
      changed(one) && finders.every((finds) => finds(one)));
    if (sorted.by) {
      const key = KEYS[sorted.by];
      const sign = sorted.down ? -1 : 1;
      matching = matching.map((one) => [key(one), one]).sort(([a], [b]) => compare(a, b, sign)).map(([, one]) => one);
    }
    drawn = 0;
    body.replaceChildren();
    show(PAGE);
  };

  const sortBy = (by, down) => {
    sorted = { by, down };
    for (const head of table.tHead.rows[0].cells) {
      if (head.dataset.sort === by) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    refresh();
  };

  const options = (select, values) =>
    [...new Set(values)].filter(Boolean).sort(collator.compare).forEach((value) => {
      const option = make("option", value);
      option.value = value;
      select.append(option);
    });

  options(verdict, cases.map((one) => one.verdict));
  options(group, cases.map((one) => one.group));
  options(byScore, cases.flatMap((one) => one.scores.map((s) => s.name)));
  byScore.parentElement.hidden = byScore.length < 2;
  change.parentElement.hidden = !cases.some((one) => one.change || moves(one).length);
  table.classList.toggle("unchanged", change.parentElement.hidden);
  for (const head of table.tHead.rows[0].cells) {
    const by = head.dataset.sort;
    head.firstElementChild.addEventListener("click", () => sortBy(by, sorted.by === by && !sorted.down));
  }
  byScore.addEventListener("input", () => sortBy("score", sorted.by === "score" && sorted.down));
  document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
  controls.forEach((control) => control.addEventListener("input", refresh));
  find("more").addEventListener("click", () => show(Math.max(PAGE, drawn)));
  find("rest").addEventListener("click", () => show(matching.length));
  refresh();
})();
