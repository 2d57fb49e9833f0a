// Values, as people write them and as the server takes them.

const ODD = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity };
const isFloat = (datatype) => datatype.startsWith("FP");

// Values of one time step; null where more than one size is open.
function stepOf(info) {
  const open = info.shape.filter((size) => size < 0).length;
  if (open > 1) return null;
  const fixed = info.shape.filter((size) => size >= 0).reduce((a, b) => a * b, 1);
  return { size: fixed, any: open === 1 };
}

function shapeFor(info, count) {
  const step = stepOf(info);
  if (step === null) throw new Error(`input ${info.name} has several open sizes`);
  if (step.any && (step.size === 0 || count % step.size !== 0)) {
    throw new Error(`input ${info.name}: ${count} values are no whole steps of ${step.size}`);
  }
  if (!step.any && count !== step.size) {
    throw new Error(`input ${info.name} takes ${step.size} values, not ${count}`);
  }
  return info.shape.map((size) => (size < 0 ? count / step.size : size));
}

// Whether a number may be of a datatype; the server looks once more.
function fits(datatype, value) {
  if (!isFloat(datatype)) return Number.isSafeInteger(value);
  return Number.isFinite(datatype === "FP64" ? value : Math.fround(value));
}

function parseValues(info, text) {
  const words = text.split(/[\s,;[\]()]+/).filter((word) => word !== "");
  if (words.length === 0) throw new Error(`input ${info.name} has no values`);
  return words.map((word) => {
    if (info.datatype === "BOOL" && /^(true|false|0|1)$/i.test(word)) return /^(true|1)$/i.test(word);
    const value = word in ODD ? ODD[word] : Number(word);
    if (info.datatype === "BOOL" || !(word in ODD || fits(info.datatype, value))) {
      throw new Error(`input ${info.name}: “${word.slice(0, 20)}” is no ${info.datatype}`);
    }
    return value;
  });
}

function tensor(info, values) {
  const data = Array.from(values, (value) =>
    typeof value === "number" && !Number.isFinite(value) ? String(value) : value);
  return { name: info.name, datatype: info.datatype, shape: shapeFor(info, values.length), data };
}

const plain = (data) => data.map((value) => (typeof value === "string" ? ODD[value] : Number(value)));

// An output as rows of channels, one row a time step: the time axis first, then the rest.
function timeSteps(info, output) {
  const values = plain(output.data);
  const axis = info.time_axis;
  if (axis === null || axis === undefined) return values.length ? [values] : [];
  const steps = output.shape[axis];
  const inner = output.shape.slice(axis + 1).reduce((a, b) => a * b, 1);
  const outer = output.shape.slice(0, axis).reduce((a, b) => a * b, 1);
  const rows = [];
  for (let step = 0; step < steps; step += 1) {
    const row = [];
    for (let before = 0; before < outer; before += 1) {
      for (let after = 0; after < inner; after += 1) {
        row.push(values[(before * steps + step) * inner + after]);
      }
    }
    rows.push(row);
  }
  return rows;
}
