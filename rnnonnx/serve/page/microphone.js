// The microphone: a worklet hands on its samples at the rate that the model was made for.

// NOTE: the text of the worklet. It must not use anything of the page: it runs in a thread of
// its own. Not every browser lets a context have another rate than the microphone, so the
// worklet itself resamples: a low pass (a sinc of 16 lobes under a Hann window) at the lower of
// the two rates' halves, read off where the new samples are.
const WORKLET = `
  const LOBES = 8;
  class Samples extends AudioWorkletProcessor {
    constructor({ processorOptions: { rate, chunk } }) {
      super();
      this.ratio = sampleRate / rate;
      this.cut = Math.min(1, 1 / this.ratio);
      this.reach = LOBES / this.cut;
      this.past = [];
      this.at = this.reach;
      this.chunk = chunk;
      this.made = [];
    }
    weight(distance) {
      const x = distance * this.cut;
      if (Math.abs(x) >= LOBES) return 0;
      const sinc = x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
      return this.cut * sinc * (0.5 + 0.5 * Math.cos((Math.PI * x) / LOBES));
    }
    process([[mono]]) {
      if (!mono) return true;
      for (const sample of mono) this.past.push(sample);
      while (this.at + this.reach < this.past.length) {
        if (this.ratio === 1) {
          this.made.push(this.past[Math.round(this.at)]);
        } else {
          let sum = 0;
          const last = Math.floor(this.at + this.reach);
          for (let i = Math.ceil(this.at - this.reach); i <= last; i += 1) {
            sum += this.past[i] * this.weight(i - this.at);
          }
          this.made.push(sum);
        }
        this.at += this.ratio;
      }
      const gone = Math.floor(this.at - this.reach);
      if (gone > 0) {
        this.past.splice(0, gone);
        this.at -= gone;
      }
      while (this.made.length >= this.chunk) {
        this.port.postMessage(Float32Array.from(this.made.splice(0, this.chunk)));
      }
      return true;
    }
  }
  registerProcessor("samples", Samples);
`;

// More chunks than this under way, and what the microphone says meanwhile is lost.
const MOST_BEHIND = 16;
const microphone = { context: null, tracks: [], lost: 0 };

async function startMicrophone() {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    throw new Error("browsers hand out the microphone on https and on localhost alone");
  }
  const main = mainInput();
  const step = main && stepOf(main);
  if (!step || !isFloat(main.datatype)) throw new Error("this model has no input for samples");
  const rate = Number($("rate").value);
  const steps = step.any ? Number($("audio-chunk").value) : 1;
  const media = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  const context = new AudioContext();
  Object.assign(microphone, { context, tracks: media.getTracks(), lost: 0 });
  const url = URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" }));
  try {
    await context.audioWorklet.addModule(url);
  } finally {
    URL.revokeObjectURL(url);
  }
  const node = new AudioWorkletNode(context, "samples", {
    numberOfOutputs: 0,
    channelCount: 1,
    channelCountMode: "explicit",
    processorOptions: { rate, chunk: steps * Math.max(1, step.size) },
  });
  node.port.onmessage = ({ data }) => heard(data, node);
  context.createMediaStreamSource(media).connect(node);
  write($("listen"), "Stop");
  write($("audio-state"), `listening: ${context.sampleRate} samples a second, made ${rate}`);
}

function heard(samples, node) {
  if (microphone.context !== node.context || !live.open) return;
  $("level").value = Math.min(1, samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
  if (live.pending.length >= MOST_BEHIND) {
    microphone.lost += 1;
    write($("audio-state"), `the model is slower than the microphone: ${counted(microphone.lost, "chunk")} lost`);
    return;
  }
  try {
    pushValues(samples);
  } catch (error) {
    showError(error.message);
    stopMicrophone();
  }
}

function stopMicrophone() {
  if (microphone.context === null) return;
  for (const track of microphone.tracks) track.stop();
  microphone.context.close();
  microphone.context = null;
  $("level").value = 0;
  write($("listen"), "Listen");
  write($("audio-state"), "not listening");
}
