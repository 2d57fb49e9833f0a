// What the whole page knows: the key, which is nowhere else, and how the server is asked.

const $ = (id) => document.getElementById(id);
const app = { key: null };

class KeyNeeded extends Error {}

async function getJson(path) {
  const headers = app.key === null ? {} : { Authorization: `Bearer ${app.key}` };
  const response = await fetch(path, { headers, cache: "no-store", credentials: "omit" });
  const body = await response.json();
  if (response.status === 401) throw new KeyNeeded(body.error);
  if (!response.ok) throw new Error(body.error ?? `status ${response.status}`);
  return body;
}

// --- the key: asked for when the server wants one -----------------------------------------

let keyGiven = null;

function askForKey(message) {
  $("key-error").textContent = message;
  if (keyGiven === null) {
    keyGiven = new Promise((resolve) => {
      $("key-form").onsubmit = () => {
        app.key = $("key").value.trim();
        $("key").value = "";
        keyGiven = null;
        resolve();
      };
    });
  }
  if (!$("key-dialog").open) $("key-dialog").showModal();
  return keyGiven;
}

$("key-dialog").addEventListener("cancel", (event) => event.preventDefault());

// --- text -----------------------------------------------------------------------------------

function element(name, options = {}, ...children) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

// Text is written only where it differs: what is read aloud, or selected, stays.
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function number(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

const counted = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  return `${Number(seconds.toPrecision(3))} s`;
}

function showError(message) {
  write($("error"), message);
}
