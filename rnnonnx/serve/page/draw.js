// A series drawn by hand: one value a time step, joined where the pointer was too fast.

const pad = { values: [], cursor: 0, last: null };
const padNumber = (id) => Number($(id).value);

function clearPad() {
  pad.values = new Array(Math.max(2, Math.min(2000, padNumber("pad-steps") || 2))).fill(0);
  pad.cursor = 0;
  tellPad();
}

function tellPad() {
  const value = pad.values[pad.cursor];
  const canvas = $("pad");
  canvas.setAttribute("aria-valuemin", padNumber("pad-low"));
  canvas.setAttribute("aria-valuemax", padNumber("pad-high"));
  canvas.setAttribute("aria-valuenow", value);
  canvas.setAttribute("aria-valuetext", `step ${pad.cursor + 1}: ${number(value)}`);
  redrawPad();
}

const PAD = 10;

const redrawPad = canvasOf($("pad"), (context, width, height) => {
  const [low, high] = [padNumber("pad-low"), padNumber("pad-high")];
  const x = (step) => PAD + ((width - 2 * PAD) * step) / (pad.values.length - 1);
  const y = (value) => PAD + ((height - 2 * PAD) * (high - value)) / (high - low || 1);
  context.strokeStyle = colour("line");
  for (const level of [low, (low + high) / 2, high]) {
    context.beginPath();
    context.moveTo(PAD, y(level));
    context.lineTo(width - PAD, y(level));
    context.stroke();
  }
  context.fillStyle = colour("soft");
  context.textBaseline = "top";
  context.fillText(number(high), PAD + 2, y(high) + 2);
  context.textBaseline = "bottom";
  context.fillText(number(low), PAD + 2, y(low) - 2);
  context.strokeStyle = context.fillStyle = colour("accent");
  context.lineWidth = 2;
  context.beginPath();
  pad.values.forEach((value, step) => context.lineTo(x(step), y(value)));
  context.stroke();
  context.beginPath();
  context.arc(x(pad.cursor), y(pad.values[pad.cursor]), 4, 0, 2 * Math.PI);
  context.fill();
});

function drawnAt(event) {
  const box = $("pad").getBoundingClientRect();
  const [low, high] = [padNumber("pad-low"), padNumber("pad-high")];
  const across = (event.clientX - box.left - PAD) / (box.width - 2 * PAD);
  const down = (event.clientY - box.top - PAD) / (box.height - 2 * PAD);
  const within = (value) => Math.max(0, Math.min(1, value));
  const step = Math.round(within(across) * (pad.values.length - 1));
  return { step, value: high - within(down) * (high - low) };
}

function drawTo(point) {
  const from = pad.last ?? point;
  const steps = Math.abs(point.step - from.step);
  for (let i = 0; i <= steps; i += 1) {
    const share = steps ? i / steps : 1;
    const step = Math.round(from.step + (point.step - from.step) * share);
    pad.values[step] = from.value + (point.value - from.value) * share;
  }
  pad.last = point;
  pad.cursor = point.step;
  tellPad();
}

$("pad").addEventListener("pointerdown", (event) => {
  $("pad").setPointerCapture(event.pointerId);
  pad.last = null;
  drawTo(drawnAt(event));
});
$("pad").addEventListener("pointermove", (event) => {
  if (event.buttons && $("pad").hasPointerCapture(event.pointerId)) drawTo(drawnAt(event));
});
$("pad").addEventListener("keydown", (event) => {
  const [low, high] = [padNumber("pad-low"), padNumber("pad-high")];
  const across = { ArrowLeft: -1, ArrowRight: 1, Home: -pad.cursor, End: pad.values.length - 1 - pad.cursor }[event.key];
  const up = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
  if (across === undefined && up === undefined) return;
  event.preventDefault();
  pad.cursor = Math.max(0, Math.min(pad.values.length - 1, pad.cursor + (across ?? 0)));
  if (up !== undefined) {
    const value = pad.values[pad.cursor] + (up * (high - low)) / 20;
    pad.values[pad.cursor] = Math.max(low, Math.min(high, value));
  }
  tellPad();
});

// The drawn values as those of the input: the other features of a step are zero.
function drawnValues() {
  const main = mainInput();
  const size = main === null ? 1 : Math.max(1, stepOf(main).size);
  const feature = padNumber("pad-feature");
  if (!(feature >= 1 && feature <= size)) throw new Error(`the input has the features 1 to ${size}`);
  return pad.values.flatMap((value) => {
    const step = new Array(size).fill(0);
    step[feature - 1] = isFloat(main.datatype) ? value : Math.round(value);
    return step;
  });
}
