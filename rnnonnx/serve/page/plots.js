// Canvases: lines over time, the heat map, bars. Each is drawn anew when its size or the theme changes.

const CHANNELS = 8;
const redrawn = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function rgb(name) {
  const hex = colour(name).slice(1);
  return [0, 2, 4].map((place) => parseInt(hex.slice(place, place + 2), 16));
}

// Have `draw(context, width, height)` called once a frame at most, in CSS pixels.
function canvasOf(canvas, draw) {
  let asked = false;
  const paint = () => {
    asked = false;
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width || !height) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = '12px system-ui, "DejaVu Sans", sans-serif';
    draw(context, width, height);
  };
  const ask = () => {
    if (!asked) requestAnimationFrame(paint);
    asked = true;
  };
  redrawn.set(canvas, ask);
  new ResizeObserver(ask).observe(canvas);
  ask();
  return ask;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const ask of redrawn.values()) ask();
});

function nothingYet(context, width, height, text) {
  context.fillStyle = colour("soft");
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, width / 2, height / 2);
}

// Two or three round numbers within a range.
function ticks(low, high) {
  const raw = (high - low) / 3;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((base) => base * power).find((size) => size >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) {
    found.push(Math.abs(value) < step / 1e6 ? 0 : value);
  }
  return found;
}

// How many places the time axis has: a few sizes, so that it does not change with each step.
function spanFor(count, most) {
  return [most / 8, most / 4, most / 2].find((size) => size >= count) ?? most;
}

const MARGIN = { left: 52, right: 10, top: 10, bottom: 22 };

// rows: arrays of channels, one a time step; last: the number of the last step.
function drawLines(context, width, height, rows, last, span) {
  if (rows.length === 0) {
    nothingYet(context, width, height, "nothing yet: open a stream, and push a chunk");
    return;
  }
  let low = Infinity;
  let high = -Infinity;
  for (const row of rows) {
    for (const value of row.slice(0, CHANNELS)) {
      if (Number.isFinite(value)) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  if (low > high) [low, high] = [-1, 1];
  const pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  [low, high] = [low - pad, high + pad];
  const inner = width - MARGIN.left - MARGIN.right;
  const tall = height - MARGIN.top - MARGIN.bottom;
  const wide = spanFor(rows.length, span);
  const x = (place) => MARGIN.left + (inner * (wide - rows.length + place)) / (wide - 1);
  const y = (value) => MARGIN.top + (tall * (high - value)) / (high - low);
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const tick of ticks(low, high)) {
    context.strokeStyle = colour("line");
    context.beginPath();
    context.moveTo(MARGIN.left, y(tick));
    context.lineTo(width - MARGIN.right, y(tick));
    context.stroke();
    context.fillStyle = colour("soft");
    context.fillText(number(tick), MARGIN.left - 6, y(tick));
  }
  axisOfSteps(context, width, height, last, wide - 1, "steps");
  const channels = Math.min(CHANNELS, rows[0].length);
  for (let channel = 0; channel < channels; channel += 1) {
    context.strokeStyle = context.fillStyle = colour(`s${channel}`);
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    let pen = false;
    rows.forEach((row, place) => {
      const value = row[channel];
      if (!Number.isFinite(value)) {
        pen = false;
      } else if (pen) {
        context.lineTo(x(place), y(value));
      } else {
        context.moveTo(x(place), y(value));
        pen = true;
      }
    });
    context.stroke();
    const end = rows[rows.length - 1][channel];
    if (Number.isFinite(end)) {
      context.beginPath();
      context.arc(x(rows.length - 1), y(end), 3, 0, 2 * Math.PI);
      context.fill();
    }
  }
}

function axisOfSteps(context, width, height, last, span, unit) {
  context.fillStyle = colour("soft");
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  context.fillText(`−${span} ${unit}`, MARGIN.left, height - 6);
  context.textAlign = "right";
  context.fillText(`now (${last})`, width - MARGIN.right, height - 6);
}

// columns: arrays of values, one a chunk; parts: the states, {name, from, size}.
function drawHeat(context, width, height, columns, parts, most, last) {
  if (columns.length === 0) {
    nothingYet(context, width, height, "nothing yet: open a stream, and push a chunk");
    return 0;
  }
  const span = spanFor(columns.length, most);
  const largest = columns.reduce(
    (most, column) => column.reduce((a, b) => (Number.isFinite(b) ? Math.max(a, Math.abs(b)) : a), most), 0);
  const rows = columns[0].length;
  const image = new ImageData(columns.length, rows);
  const [low, zero, high] = ["low", "zero", "high"].map(rgb);
  columns.forEach((column, x) => {
    for (let y = 0; y < rows; y += 1) {
      const share = largest && Number.isFinite(column[y]) ? column[y] / largest : 0;
      const end = share < 0 ? low : high;
      const at = 4 * (y * columns.length + x);
      for (let band = 0; band < 3; band += 1) {
        image.data[at + band] = zero[band] + (end[band] - zero[band]) * Math.abs(share);
      }
      image.data[at + 3] = 255;
    }
  });
  const small = new OffscreenCanvas(columns.length, rows);
  small.getContext("2d").putImageData(image, 0, 0);
  const inner = width - MARGIN.left - MARGIN.right;
  const tall = height - MARGIN.top - MARGIN.bottom;
  const wide = (inner * columns.length) / span;
  const left = width - MARGIN.right - wide;
  // many units are averaged into a pixel, few are drawn as blocks
  context.imageSmoothingEnabled = rows > tall;
  context.drawImage(small, left, MARGIN.top, wide, tall);
  context.strokeStyle = colour("line");
  context.strokeRect(MARGIN.left, MARGIN.top, inner, tall);
  let free = -Infinity;
  for (const part of parts) {
    const top = MARGIN.top + (tall * part.from) / rows;
    const middle = top + (tall * part.size) / rows / 2;
    if (part.from) {
      context.strokeStyle = colour("ink");
      context.beginPath();
      context.moveTo(MARGIN.left, top);
      context.lineTo(width - MARGIN.right, top);
      context.stroke();
    }
    if (middle - free >= 13) {
      context.fillStyle = colour("soft");
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.fillText(fitted(context, part.name, MARGIN.left - 10), MARGIN.left - 6, middle);
      free = middle;
    }
  }
  axisOfSteps(context, width, height, last, span - 1, "chunks");
  return largest;
}

// The end of a name that fits: the layers' names begin alike.
function fitted(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  let short = text;
  while (short.length > 1 && context.measureText(`…${short}`).width > room) short = short.slice(1);
  return `…${short}`;
}

// counts by label, as bars.
function drawBars(context, width, height, labels, counts) {
  const most = Math.max(...counts, 0);
  if (most === 0) {
    nothingYet(context, width, height, "no batch in the last ten seconds");
    return;
  }
  const slot = (width - 12) / labels.length;
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  labels.forEach((label, place) => {
    const tall = counts[place] ? Math.max(2, ((height - 26) * counts[place]) / most) : 0;
    context.fillStyle = colour("accent");
    context.fillRect(6 + slot * place + slot * 0.15, height - 18 - tall, slot * 0.7, tall);
    context.fillStyle = colour("soft");
    context.fillText(label, 6 + slot * (place + 0.5), height - 5);
  });
}
