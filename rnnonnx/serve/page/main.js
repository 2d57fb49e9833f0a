// What happens when something is clicked.

function showInputs() {
  $("inputs").replaceChildren(...live.hello.inputs.map((info, place) => {
    const shape = info.shape.map((size) => (size < 0 ? "any" : size)).join(" × ") || "one value";
    const area = element("textarea", { id: `input-${place}`, spellcheck: false,
      placeholder: "0.1 0.2 0.3" });
    return element("label", { className: "input" }, `${info.name}: ${info.datatype}, ${shape} `, area);
  }));
  const main = mainInput();
  const step = main && stepOf(main);
  $("pad-feature").max = step ? Math.max(1, step.size) : 1;
  $("audio-chunk").disabled = Boolean(step) && !step.any;
}

function typedValues(info) {
  return parseValues(info, $(`input-${live.hello.inputs.indexOf(info)}`).value);
}

function onSubmit(id, action) {
  $(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    showError("");
    try {
      await action();
    } catch (error) {
      showError(error.message);
    }
  });
}

onSubmit("open-form", () => openStream($("model").value, $("sequence").value, $("continue").checked));
$("close").addEventListener("click", () => {
  showError("");
  closeStream();
});
$("reset").addEventListener("click", () => {
  showError("");
  live.pending.push(performance.now());
  live.socket.send(JSON.stringify({ type: "reset" }));
  live.steps = 0;
  clearPlots();
});

onSubmit("form-type", () => {
  const inputs = live.hello.inputs;
  const values = inputs.map(typedValues);
  if (inputs.length === 1) pushSeries(values[0], Number($("chunk").value));
  else pushTensors(inputs.map((info, place) => tensor(info, values[place])));
});
$("sample").addEventListener("click", () => {
  const inputs = live.hello?.inputs ?? [];
  if (inputs.length === 0) showError("Open a stream first: the page then knows what its model takes.");
  inputs.forEach((info, place) => {
    const step = stepOf(info) ?? { size: 1, any: true };
    const count = Math.min(4096, step.any ? 48 * step.size : step.size);
    const wave = Array.from({ length: count }, (_, at) => {
      const time = step.any ? Math.floor(at / step.size) : at;
      const value = Math.sin((2 * Math.PI * time) / 24 + (at % Math.max(1, step.size)));
      return isFloat(info.datatype) ? Number(value.toFixed(3)) : Math.round(Math.abs(value) * (info.datatype === "BOOL" ? 1 : 4));
    });
    $(`input-${place}`).value = wave.join(" ");
  });
});

onSubmit("form-draw", () => pushSeries(drawnValues(), padNumber("pad-chunk")));
$("pad-clear").addEventListener("click", clearPad);
$("pad-steps").addEventListener("change", clearPad);
for (const id of ["pad-low", "pad-high"]) $(id).addEventListener("change", tellPad);

onSubmit("form-microphone", () =>
  (microphone.context === null ? startMicrophone() : stopMicrophone()));

$("output").addEventListener("change", () => {
  drawPlots();
  describe();
});
$("forget").addEventListener("click", () => {
  closeStream();
  askForKey("");
});

// Tabs: one is in the order of the keyboard, arrows go to the others.
const tabs = [...document.querySelectorAll('[role="tab"]')];

function chooseTab(chosen) {
  for (const tab of tabs) {
    const on = tab === chosen;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !on;
  }
  if (chosen.id !== "tab-microphone") stopMicrophone();
}

tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => chooseTab(tab));
  tab.addEventListener("keydown", (event) => {
    const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    const chosen = tabs[(next + tabs.length) % tabs.length];
    chooseTab(chosen);
    chosen.focus();
  });
});

clearPad();
watchModels();
