"""One step of one stream: StatefulSession beside everything else that carries a state.

Usage:
    python benchmarks/one_step.py              # print the table
    python benchmarks/one_step.py --write      # and write it to docs/benchmarks.md

Every contestant has the same weights, is given a new host array at each step and gives back one
that the caller may keep, on one thread. Before they are timed their outputs are compared over
20 steps. OpenVINO, PyTorch: `pip install --group peers`; without them their columns are empty.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np
import onnxruntime
from _measure import machine, markdown, side_by_side, write_section

from rnnonnx.quiet import start_tensorflow

COMMAND = "python benchmarks/one_step.py --write"
FEATURES = 64
TOLERANCE = 1e-4
SESSION = "StatefulSession"

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Step: TypeAlias = Callable[[Array], Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    start_tensorflow("the comparison with Keras")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    header: list[str] = []
    rows = []
    for kind in ("LSTM", "GRU"):
        for units in (64, 256, 512):
            steps = contestants(kind, units)
            compare(steps)
            x = np.random.default_rng(0).normal(size=(1, 1, FEATURES)).astype("float32")
            timings = side_by_side(
                {name: partial(step, x) for name, step in steps.items()},
                SESSION,
                rounds=arguments.rounds,
                seconds=0.02,
            )
            header = header or ["Layer", f"{SESSION}, µs", *(n for n in steps if n != SESSION)]
            cells = [str(timings[name]) if name in timings else "" for name in header[2:]]
            rows.append([f"{kind} {units}", f"{timings[SESSION].seconds * 1e6:.1f}", *cells])
            print(" | ".join(rows[-1]), flush=True)
    text = (
        f"`{COMMAND}`, {arguments.rounds} rounds by turns, one thread. The columns are times"
        f" divided by {SESSION}'s in the same round: median (tenth to ninetieth percentile)."
        " Above 1 is slower than it.\n\n"
        f"{machine(['onnxruntime', 'tensorflow', 'keras', 'openvino', 'torch', 'numpy'])}\n\n"
        + markdown(header, rows)
    )
    print(f"\n{text}")
    if arguments.write:
        write_section("one step", text)


def contestants(kind: str, units: int) -> dict[str, Step]:
    """The steps by name, each with a state of its own that begins at zero."""
    import keras

    from rnnonnx.exporters import export
    from rnnonnx.runtime import StatefulSession

    keras.utils.set_random_seed(1)
    layer = getattr(keras.layers, kind)
    model = keras.Sequential(
        [keras.Input((None, FEATURES), name="x"), layer(units, return_sequences=True, name="rnn")]
    )
    weights = model.get_weights()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(model, path, states="all")
        data = path.read_bytes()
        steps: dict[str, Step] = {
            SESSION: StatefulSession(data),
            "two IO bindings": io_bindings(data, copy=True),
            "the same, output not copied": io_bindings(data, copy=False),
            "InferenceSession.run": run_by_hand(data),
        }
        steps |= keras_steps(layer, units, weights)
        steps |= openvino_step(path)
    return steps | torch_step(kind, units, weights)


def compare(steps: dict[str, Step]) -> None:
    """Refuse to time contestants that do not compute the same."""
    rng = np.random.default_rng(5)
    for number in range(20):
        x = rng.normal(size=(1, 1, FEATURES)).astype("float32")
        results = {name: np.array(step(x)).reshape(-1) for name, step in steps.items()}
        for name, result in results.items():
            error = float(np.abs(result - results[SESSION]).max())
            if not error <= TOLERANCE:
                raise SystemExit(f"{name} differs by {error} at step {number}")


def _raw_session(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _pairs(session: Any) -> list[tuple[str, str]]:
    inputs = sorted(i.name for i in session.get_inputs() if i.name.startswith("state_in."))
    return [(name, name.replace("state_in.", "state_out.")) for name in inputs]


def io_bindings(data: bytes, *, copy: bool) -> Step:
    """The least that a program without rnnonnx can do: two bindings by turns, nothing checked."""
    session = _raw_session(data)
    pairs = _pairs(session)
    units = session.get_inputs()[1].shape[1]
    y_name = session.get_outputs()[0].name
    x, y = np.zeros((1, 1, FEATURES), "float32"), np.zeros((1, 1, units), "float32")
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    x_value, y_value = value(x), value(y)
    sets = [[value(np.zeros((1, units), "float32")) for _ in pairs] for _ in range(2)]
    bindings = []
    for turn in (0, 1):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x_value)
        binding.bind_ortvalue_output(y_name, y_value)
        for (name_in, name_out), old, new in zip(pairs, sets[turn], sets[1 - turn], strict=True):
            binding.bind_ortvalue_input(name_in, old)
            binding.bind_ortvalue_output(name_out, new)
        bindings.append(binding)
    run, turn = session.run_with_iobinding, 0

    def step(array: Array) -> Array:
        nonlocal turn
        x[...] = array
        run(bindings[turn])
        turn = 1 - turn
        return y.copy() if copy else y

    return step


def run_by_hand(data: bytes) -> Step:
    session = _raw_session(data)
    pairs = _pairs(session)
    units = session.get_inputs()[1].shape[1]
    names = [session.get_outputs()[0].name, *(name_out for _, name_out in pairs)]
    feed = {name_in: np.zeros((1, units), "float32") for name_in, _ in pairs}

    def step(array: Array) -> Array:
        feed["x"] = array
        y, *states = session.run(names, feed)
        for (name_in, _), state in zip(pairs, states, strict=True):
            feed[name_in] = state
        return y

    return step


def keras_steps(layer: Any, units: int, weights: list[Array]) -> dict[str, Step]:
    """Keras's own stateful layer, predicting and as a compiled function."""
    import keras
    import tensorflow as tf

    def build() -> Any:
        model = keras.Sequential(
            [
                keras.Input(batch_shape=(1, 1, FEATURES)),
                layer(units, return_sequences=True, stateful=True),
            ]
        )
        model.set_weights(weights)
        return model

    predicted, called = build(), build()
    function = tf.function(lambda x: called(x, training=False), reduce_retracing=True)
    return {
        "Keras predict_on_batch": predicted.predict_on_batch,
        "Keras in a tf.function": lambda x: function(tf.constant(x)).numpy(),
    }


def openvino_step(path: Path) -> dict[str, Step]:
    try:
        import openvino
        from openvino import passes
    except ImportError:
        return {}
    core = openvino.Core()
    model = core.read_model(str(path))
    inputs = [port.get_any_name() for port in model.inputs]
    pairs = {name: name.replace("state_in.", "state_out.") for name in inputs if name != "x"}
    units = model.inputs[1].get_partial_shape()[1].get_length()
    model.reshape({name: [1, 1, FEATURES] if name == "x" else [1, units] for name in inputs})
    manager = passes.Manager()
    manager.register_pass(passes.MakeStateful(pairs))
    manager.run_passes(model)
    # NOTE: it computes in bfloat16 on CPUs that have it unless told not to.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    for state in request.query_state():
        state.state = openvino.Tensor(np.zeros((1, units), "float32"))

    def step(x: Array) -> Array:
        return np.array(request.infer({0: x})[0])

    return {"OpenVINO, stateful": step}


def torch_step(kind: str, units: int, weights: list[Array]) -> dict[str, Step]:
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(1)
    kernel, recurrent, bias = weights
    if kind == "GRU":  # Keras [z, r, h] -> torch [r, z, n]
        order = np.r_[units : 2 * units, 0:units, 2 * units : 3 * units]
        kernel, recurrent, bias = kernel[:, order], recurrent[:, order], bias[:, order]
        biases = (bias[0], bias[1])
    else:  # [i, f, c, o] in both
        biases = (bias, np.zeros_like(bias))
    module = getattr(torch.nn, kind)(FEATURES, units, batch_first=True)
    values = (kernel.T.copy(), recurrent.T.copy(), *biases)
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))
    state = None

    def step(x: Array) -> Array:
        nonlocal state
        with torch.inference_mode():
            y, state = module(torch.from_numpy(x), state)
        return y.numpy()

    return {"PyTorch": step}


if __name__ == "__main__":
    main()
