// The stream: one WebSocket, what is pushed into it, and what comes out as plots.

const STEPS_SHOWN = 240;
const CHUNKS_SHOWN = 120;
const MOST_UNITS = 2048;

const live = {
  socket: null, hello: null, open: false, pending: [], steps: 0,
  history: new Map(), columns: [], parts: [], chunks: 0,
};

function openStream(model, sequence, goesOn) {
  closeStream();
  const address = new URL(`v2/models/${encodeURIComponent(model)}/stream`, location.href);
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  live.socket = socket;
  write($("stream-state"), "opening …");
  socket.onopen = () => {
    const frame = { type: "open", states: true };
    if (app.key !== null) frame.key = app.key;
    if (sequence !== "") Object.assign(frame, { sequence, start: !goesOn });
    socket.send(JSON.stringify(frame));
  };
  socket.onmessage = (event) => {
    if (live.socket === socket) received(JSON.parse(event.data));
  };
  socket.onclose = (event) => {
    if (live.socket === socket) ended(event);
  };
}

function closeStream() {
  if (live.socket === null) return;
  const socket = live.socket;
  ended(null);
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "close" }));
  socket.close();
}

function ended(event) {
  const opened = live.open;
  Object.assign(live, { socket: null, open: false, pending: [] });
  write($("stream-state"), "not open");
  enabled(false);
  stopMicrophone();
  if (event === null) return;
  if (!opened && event.code === 1006) {
    showError("The server has refused the connection.");
  } else if (event.code !== 1000 && $("error").textContent === "") {
    showError(`The connection was closed: ${event.reason || `code ${event.code}`}.`);
  }
}

function received(frame) {
  if (frame.type === "hello") {
    greeted(frame);
  } else if (frame.type === "opened") {
    live.open = true;
    live.steps = frame.steps;
    write($("stream-state"), frame.sequence === null ? "open" : `open: ${frame.sequence}`);
    enabled(true);
    figures();
  } else if (frame.type === "error") {
    showError(frame.error + (frame.retry_after === null ? "" : ` (again in ${frame.retry_after} s)`));
    if (!live.open) live.socket?.close();
    answered();
  } else {
    const sent = answered();
    if (frame.type === "outputs") {
      live.steps = frame.steps ?? live.steps + 1;
      write($("stream-time"), duration((performance.now() - sent) / 1000));
      keep(frame);
    }
    figures();
  }
}

function answered() {
  const sent = live.pending.shift();
  figures();
  return sent;
}

function figures() {
  write($("stream-steps"), live.open ? String(live.steps) : "–");
  write($("stream-pending"), live.open ? counted(live.pending.length, "chunk") : "–");
}

function enabled(open) {
  for (const id of ["push", "pad-push", "listen", "reset", "close"]) $(id).disabled = !open;
  $("open").disabled = open;
  for (const id of ["model", "sequence", "continue"]) $(id).disabled = open;
  figures();
}

function greeted(hello) {
  const same = live.hello !== null && JSON.stringify(live.hello.inputs) === JSON.stringify(hello.inputs)
    && live.hello.model === hello.model;
  live.hello = hello;
  clearPlots();
  if (!same) showInputs();
  $("output").replaceChildren(...hello.outputs.map((output) =>
    element("option", { value: output.name, textContent: output.name })));
  let from = 0;
  live.parts = hello.states.map((state) => {
    const size = state.shape.reduce((a, b) => a * b, 1);
    from += size;
    return { name: state.name, from: from - size, size };
  });
}

function clearPlots() {
  Object.assign(live, { history: new Map(), columns: [], chunks: 0 });
  $("output-plot").setAttribute("aria-label", "The output over time: nothing yet");
  $("heat-map").setAttribute("aria-label", "The state over time: nothing yet");
  for (const id of ["output-now", "state-now"]) write($(id), "");
  $("legend").replaceChildren();
  drawPlots();
}

// --- what is pushed -------------------------------------------------------------------------

// The first input of floats that the page can fill: that of the pad and the microphone.
function mainInput() {
  const inputs = live.hello.inputs.filter((info) => stepOf(info) !== null);
  return inputs.find((info) => isFloat(info.datatype)) ?? inputs[0] ?? null;
}

// Push values of the main input; those of the others are as they are typed.
function pushValues(values) {
  const main = mainInput();
  if (main === null) throw new Error("the inputs of this model have more than one open size");
  pushTensors(live.hello.inputs.map((info) =>
    tensor(info, info === main ? values : typedValues(info))));
}

function pushTensors(inputs) {
  const { binary } = live.hello;
  const [only] = inputs;
  live.pending.push(performance.now());
  if (binary !== null && binary.datatype === "FP32" && !only.data.some((v) => typeof v === "string")) {
    const bytes = new DataView(new ArrayBuffer(4 * only.data.length));
    only.data.forEach((value, place) => bytes.setFloat32(4 * place, value, true));
    live.socket.send(bytes.buffer);
  } else {
    live.socket.send(JSON.stringify({ type: "step", inputs }));
  }
  figures();
}

// Push a long series in chunks of so many time steps.
function pushSeries(values, chunk) {
  const main = mainInput();
  const step = main && stepOf(main);
  const whole = step && step.any && main.shape.slice(0, main.time_axis ?? 0).every((size) => size === 1);
  if (!whole) {
    pushValues(values);
    return;
  }
  shapeFor(main, values.length);
  for (let at = 0; at < values.length; at += chunk * step.size) {
    pushValues(values.slice(at, at + chunk * step.size));
  }
}

// --- what comes out -------------------------------------------------------------------------

function keep(frame) {
  for (const output of frame.outputs) {
    const info = live.hello.outputs.find((item) => item.name === output.name);
    const rows = [...(live.history.get(output.name) ?? []), ...timeSteps(info, output)];
    live.history.set(output.name, rows.slice(-STEPS_SHOWN));
  }
  if (frame.states.length) {
    const column = frame.states.flatMap((state) => plain(state.data));
    live.columns = [...live.columns, column.slice(0, MOST_UNITS)].slice(-CHUNKS_SHOWN);
  }
  live.chunks += 1;
  drawPlots();
  describe();
}

function describe() {
  const name = $("output").value;
  const rows = live.history.get(name) ?? [];
  const latest = rows[rows.length - 1];
  if (latest === undefined) return;
  const shown = latest.slice(0, CHANNELS);
  const more = latest.length > CHANNELS ? `, ${CHANNELS} of ${latest.length} drawn` : "";
  write($("output-now"), `${counted(rows.length, "step")}${more}`);
  const legend = $("legend");
  while (legend.children.length > shown.length) legend.lastChild.remove();
  shown.forEach((value, channel) => {
    if (legend.children.length <= channel) legend.append(element("li", { className: `s${channel}` }));
    write(legend.children[channel], shown.length > 1 ? `${channel + 1}: ${number(value)}` : number(value));
  });
  $("output-plot").setAttribute("aria-label",
    `${name} over ${counted(rows.length, "time step")}; at last ${shown.map(number).join(", ")}`);
  if (live.columns.length) {
    const units = live.columns[0].length;
    const states = live.parts.map((part) => part.name).join(", ");
    write($("state-now"), `${counted(units, "unit")} over ${counted(live.columns.length, "chunk")}`);
    $("heat-map").setAttribute("aria-label", `The state (${states}): ${counted(units, "unit")} over ${counted(live.columns.length, "chunk")}`);
  } else if (live.hello.states.length === 0) {
    write($("state-now"), "this model has none");
  }
}

const redrawOutput = canvasOf($("output-plot"), (context, width, height) =>
  drawLines(context, width, height, live.history.get($("output").value) ?? [], live.steps, STEPS_SHOWN));
const redrawHeat = canvasOf($("heat-map"), (context, width, height) => {
  const parts = live.parts.filter((part) => part.from < MOST_UNITS);
  const largest = drawHeat(context, width, height, live.columns, parts, CHUNKS_SHOWN, live.chunks);
  write($("heat-low"), largest ? number(-largest) : "–");
  write($("heat-high"), largest ? number(largest) : "–");
});

function drawPlots() {
  redrawOutput();
  redrawHeat();
}
