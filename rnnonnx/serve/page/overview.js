// The models: read every second, shown with what changed in the last ten.

const EVERY = 1000;
const WINDOW = 10000;
const cards = new Map();
const seen = new Map();

const FIGURES = [
  ["streams", "Open streams"],
  ["own", "Of them mine"],
  ["rate", "Steps a second"],
  ["batch", "Streams a batch"],
  ["wait", "Wait up to, 50 / 99 %"],
  ["step", "Batch up to, 50 / 99 %"],
];

function cardOf(name) {
  if (cards.has(name)) return cards.get(name);
  const card = { badge: element("span", { className: "badge" }), values: {}, bars: [[], []] };
  const figures = element("dl", { className: "figures" });
  for (const [id, title] of FIGURES) {
    card.values[id] = element("dd", { textContent: "–" });
    figures.append(element("div", {}, element("dt", { textContent: title }), card.values[id]));
  }
  card.names = element("p", { className: "names" });
  card.canvas = element("canvas");
  card.canvas.setAttribute("role", "img");
  card.canvas.setAttribute("aria-label", `Sizes of the batches of ${name}: none yet`);
  card.root = element("article", { className: "card" },
    element("header", {}, element("h3", { textContent: name }), card.badge),
    figures, card.canvas, card.names);
  card.root.dataset.model = name;
  $("model-list").append(card.root);
  card.redraw = canvasOf(card.canvas, (context, width, height) =>
    drawBars(context, width, height, ...card.bars));
  cards.set(name, card);
  return card;
}

// The bound below which a share of the values lies; the values are those since `before`.
function quantile(now, before, share) {
  const counts = now.counts.map((count, place) => count - (before?.counts[place] ?? 0));
  const total = counts.reduce((a, b) => a + b, 0);
  if (total <= 0) return NaN;
  let sum = 0;
  for (let place = 0; place < counts.length; place += 1) {
    sum += counts[place];
    if (sum >= share * total) return now.bounds[place] ?? now.bounds[now.bounds.length - 1];
  }
  return NaN;
}

function pair(now, before) {
  const [half, most] = [quantile(now, before, 0.5), quantile(now, before, 0.99)];
  return Number.isNaN(half) ? "–" : `${duration(half)} / ${duration(most)}`;
}

function showModel(model, time) {
  const card = cardOf(model.name);
  write(card.badge, model.ready ? "ready" : "not loaded");
  card.badge.classList.toggle("ready", model.ready);
  card.root.title = model.ready ? "" : model.reason;
  const pool = model.pool;
  const past = (seen.get(model.name) ?? []).filter((item) => time - item.time <= WINDOW);
  // a model that was replaced counts anew
  if (pool === null || past.some((item) => item.pool.batches > pool.batches)) past.length = 0;
  const before = past[0];
  if (pool !== null) past.push({ time, pool });
  seen.set(model.name, past);
  const values = Object.fromEntries(FIGURES.map(([id]) => [id, "–"]));
  card.bars = [[], []];
  if (pool !== null) {
    values.streams = `${pool.streams} of ${pool.capacity}`;
    values.own = String(pool.own);
    if (before !== undefined) {
      const rows = pool.rows - before.pool.rows;
      const batches = pool.batches - before.pool.batches;
      values.rate = number(rows / ((time - before.time) / 1000));
      values.batch = batches ? number(rows / batches) : "–";
      values.wait = pair(pool.wait_seconds, before.pool.wait_seconds);
      values.step = pair(pool.step_seconds, before.pool.step_seconds);
      const counts = pool.batch_size.counts.map((count, place) => count - before.pool.batch_size.counts[place]);
      const used = Math.max(4, counts.findLastIndex((count) => count > 0) + 1);
      const labels = pool.batch_size.bounds.map((bound) => (bound > 2 ? `${bound / 2 + 1}–${bound}` : `${bound}`));
      card.bars = [labels.slice(0, used), counts.slice(0, used)];
      card.canvas.setAttribute("aria-label", `Sizes of the batches of ${model.name} in the last ten seconds: ` +
        (counts.map((count, place) => (count ? `${count} up to ${pool.batch_size.bounds[place] ?? "more"}` : ""))
          .filter(Boolean).join(", ") || "none"));
    }
    const names = pool.sequences.filter((name) => !String(name).startsWith("connection-"));
    write(card.names, names.length ? `named: ${names.join(", ")}` : "");
  } else {
    write(card.names, model.ready ? "has no state" : model.reason);
  }
  for (const [id, text] of Object.entries(values)) write(card.values[id], text);
  card.redraw();
}

function showChoices(models) {
  const names = models.filter((model) => model.ready).map((model) => model.name);
  const select = $("model");
  if ([...select.options].map((option) => option.value).join() === names.join()) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: name })));
  if (names.includes(chosen)) select.value = chosen;
}

async function watchModels() {
  for (;;) {
    try {
      const found = await getJson("v2/overview");
      const time = performance.now();
      for (const model of found.models) showModel(model, time);
      showChoices(found.models);
      write($("server"), `version ${found.version}${found.key ? `, key ${found.key}` : ""}`);
      $("forget").hidden = app.key === null;
    } catch (error) {
      if (error instanceof KeyNeeded) {
        const message = app.key === null ? "" : error.message;
        app.key = null;
        await askForKey(message);
        continue;
      }
      write($("server"), `the server does not answer: ${error.message}`);
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}
