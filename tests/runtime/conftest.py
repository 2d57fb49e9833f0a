"""Small stateful ONNX models, built node by node with their manifests.

pytest imports these files one by one (`--import-mode=importlib`), so that what they share
comes as fixtures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from rnnonnx.manifest import METADATA_KEY, Manifest, Source, StateTensor, Tensor
from rnnonnx.runtime import Model, StatefulSession

FEATURES, UNITS = 2, 3
WEIGHTS = "sha256:" + "ab" * 32


def make_manifest(inputs, outputs, states, weights=WEIGHTS):
    return Manifest(
        producer="test",
        source=Source("onnx", "model", weights),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=tuple(states),
    )


def make_model(manifest, nodes, constants=None, *, graph_shapes=None, metadata=None):
    """ONNX bytes whose graph inputs and outputs are the manifest's."""
    shapes = {t.name: t.shape for t in (*manifest.inputs, *manifest.outputs)}
    dtypes = {t.name: t.dtype for t in (*manifest.inputs, *manifest.outputs)}
    for state in manifest.states:
        for name in (state.input, state.output):
            shapes[name], dtypes[name] = state.shape, state.dtype
    shapes |= graph_shapes or {}

    def info(name):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtypes[name]))
        return helper.make_tensor_value_info(name, kind, shapes[name])

    graph = helper.make_graph(
        nodes,
        "graph",
        [info(t.name) for t in manifest.inputs] + [info(s.input) for s in manifest.states],
        [info(t.name) for t in manifest.outputs] + [info(s.output) for s in manifest.states],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    text = manifest.to_json() if metadata is None else metadata
    if text:
        helper.set_model_props(model, {METADATA_KEY: text})
    return model.SerializeToString()


def _recurrent(
    op, gates, parts, x_name="x", batch="batch", inits=None, outputs=("y",), units=UNITS
):
    """One native node around batch-first state: `y` is the sequence, `last` the last step."""
    rng = np.random.default_rng(7)
    constants = {
        "W": rng.normal(size=(1, gates * units, FEATURES)).astype("float32"),
        "R": rng.normal(size=(1, gates * units, units)).astype("float32"),
        "B": rng.normal(size=(1, 2 * gates * units)).astype("float32"),
        "axis0": np.array([0], dtype="int64"),
        "axis1": np.array([1], dtype="int64"),
    }
    layer = op.lower()
    states = [
        StateTensor(
            f"{layer}.{part}",
            f"state_in.{layer}.{part}",
            f"state_out.{layer}.{part}",
            "float32",
            ("batch", units),
            (inits or {}).get(part, "zeros"),
        )
        for part in parts
    ]
    nodes = [helper.make_node("Transpose", [x_name], ["x_time"], perm=[1, 0, 2])]
    for part, state in zip(parts, states, strict=True):
        # [batch, units] -> [directions, batch, units]
        nodes.append(helper.make_node("Unsqueeze", [state.input, "axis0"], [f"{part}_0"]))
    nodes.append(
        helper.make_node(
            op,
            ["x_time", "W", "R", "B", "", *(f"{part}_0" for part in parts)],
            ["Y", *(f"{part}_n" for part in parts)],
            hidden_size=units,
            **({"linear_before_reset": 1} if op == "GRU" else {}),
        )
    )
    for part, state in zip(parts, states, strict=True):
        nodes.append(helper.make_node("Squeeze", [f"{part}_n", "axis0"], [state.output]))
    tensors = []
    if "y" in outputs:
        tensors.append(Tensor("y", "float32", (batch, "time", units), 0, 1))
        nodes.append(helper.make_node("Squeeze", ["Y", "axis1"], ["y_time"]))
        nodes.append(helper.make_node("Transpose", ["y_time"], ["y"], perm=[1, 0, 2]))
    if "last" in outputs:
        tensors.append(Tensor("last", "float32", (batch, units), 0))
        nodes.append(helper.make_node("Identity", [states[0].output], ["last"]))
    return nodes, constants, tensors, states


def _one_input(op, gates, parts, batch="batch", weights=WEIGHTS, units=UNITS, **options):
    nodes, constants, outputs, states = _recurrent(
        op, gates, parts, batch=batch, units=units, **options
    )
    x = Tensor("x", "float32", (batch, "time", FEATURES), 0, 1)
    pinned = {s.input: (batch, units) for s in states} | {s.output: (batch, units) for s in states}
    return make_model(
        make_manifest([x], outputs, states, weights), nodes, constants, graph_shapes=pinned
    )


def lstm(**options):
    return _one_input("LSTM", 4, ("h", "c"), **options)


def lstm_graph():
    """The nodes and constants of `lstm()`, for a manifest of one's own."""
    nodes, constants, _, _ = _recurrent("LSTM", 4, ("h", "c"))
    return nodes, constants


def lstm_manifest():
    """The manifest of `lstm()`, as text."""
    _, _, outputs, states = _recurrent("LSTM", 4, ("h", "c"))
    x = Tensor("x", "float32", ("batch", "time", FEATURES), 0, 1)
    return make_manifest([x], outputs, states).to_json()


def wide():
    """An LSTM of 4 MB of weights."""
    return lstm(units=512)


def gru(**options):
    return _one_input("GRU", 3, ("h",), **options)


def two_inputs(times=("time", "time")):
    """x = a + b, then an LSTM: inputs that share their time axis, or have one each."""
    nodes, constants, outputs, states = _recurrent("LSTM", 4, ("h", "c"), x_name="sum")
    inputs = [
        Tensor(name, "float32", ("batch", time, FEATURES), 0, 1)
        for name, time in zip("ab", times, strict=True)
    ]
    add = helper.make_node("Add", ["a", "b"], ["sum"])
    return make_model(make_manifest(inputs, outputs, states), [add, *nodes], constants)


def counter():
    """A state of rank 0 that all rows share, and no time axis: y = x + number of calls."""
    state = StateTensor("count", "count_in", "count_out", "int64", ())
    manifest = make_manifest(
        [Tensor("x", "int64", ("batch", 2), 0)], [Tensor("y", "int64", ("batch", 2), 0)], [state]
    )
    nodes = [
        helper.make_node("Add", ["count_in", "one"], ["count_out"]),
        helper.make_node("Add", ["x", "count_out"], ["y"]),
    ]
    return make_model(manifest, nodes, {"one": np.array(1, dtype="int64")})


def total(dtype="float32", init="zeros"):
    """A running sum whose state has its batch on axis 1: state [2, batch, 3], x [batch, 3]."""
    state = StateTensor("total", "total_in", "total_out", dtype, (2, "batch", 3), init)
    manifest = make_manifest(
        [Tensor("x", dtype, ("batch", 3), 0)], [Tensor("y", dtype, ("batch", 3), 0)], [state]
    )
    nodes = [
        helper.make_node("Add", ["total_in", "x"], ["total_out"]),
        helper.make_node("ReduceSum", ["total_out", "axis0"], ["y"], keepdims=0),
    ]
    return make_model(manifest, nodes, {"axis0": np.array([0], dtype="int64")})


def failing():
    """ONNX Runtime fails while it runs: the table has 4 rows, and `i` may ask for any."""
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 1))
    manifest = make_manifest(
        [Tensor("i", "int64", ("batch", 1), 0)], [Tensor("y", "float32", ("batch", 1), 0)], [state]
    )
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["y"]),
        helper.make_node("Add", ["s_in", "y"], ["s_out"]),
    ]
    return make_model(manifest, nodes, {"table": np.arange(4, dtype="float32")})


def growing():
    """Breaks its manifest's word: the new state has twice the rows of the old one."""
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 3))
    manifest = make_manifest(
        [Tensor("x", "float32", ("batch", 3), 0)],
        [Tensor("y", "float32", ("batch", 3), 0)],
        [state],
    )
    nodes = [
        helper.make_node("Concat", ["s_in", "x"], ["s_out"], axis=0),
        helper.make_node("Neg", ["x"], ["y"]),
    ]
    return make_model(manifest, nodes, graph_shapes={"s_out": ("rows", 3)})


def short_output():
    """Breaks its manifest's word about an output: `y` is the last step alone."""
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 1))
    x, y = (Tensor(name, "float32", ("batch", "time", FEATURES), 0, 1) for name in "xy")
    nodes = [
        helper.make_node("Slice", ["x", "last", "end", "axis"], ["y"]),
        helper.make_node("Identity", ["s_in"], ["s_out"]),
    ]
    constants = {
        "last": np.array([-1], dtype="int64"),
        "end": np.array([1 << 40], dtype="int64"),
        "axis": np.array([1], dtype="int64"),
    }
    graph_shapes = {"y": ("batch", "steps", FEATURES)}
    return make_model(make_manifest([x], [y], [state]), nodes, constants, graph_shapes=graph_shapes)


def scaled():
    """An input of rank 0 beside one with a batch: s += x * scale."""
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 2))
    x, y = (Tensor(name, "float32", ("batch", 2), 0) for name in "xy")
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["product"]),
        helper.make_node("Add", ["s_in", "product"], ["s_out"]),
        helper.make_node("Identity", ["s_out"], ["y"]),
    ]
    return make_model(make_manifest([x, Tensor("scale", "float32", ())], [y], [state]), nodes)


PRIME = 2**31 - 1


def ledger():
    """A state that tells every input since the first apart, and their order: exact integers.

    h = (h * 1000003 + x) mod (2**31 - 1), y = h: `ledger_step` in Python.
    """
    state = StateTensor("h", "h_in", "h_out", "int64", ("batch", 1))
    x, y = (Tensor(name, "int64", ("batch", 1), 0) for name in "xy")
    nodes = [
        helper.make_node("Mul", ["h_in", "base"], ["product"]),
        helper.make_node("Add", ["product", "x"], ["sum"]),
        helper.make_node("Mod", ["sum", "prime"], ["h_out"]),
        helper.make_node("Identity", ["h_out"], ["y"]),
    ]
    constants = {"base": np.array(1000003), "prime": np.array(PRIME)}
    return make_model(make_manifest([x], [y], [state]), nodes, constants)


def ledger_step(h, x):
    return (h * 1000003 + x) % PRIME


def masked_lstm(*, obeyed=True):
    """An LSTM with a mask `m`, bool [batch, time], of the steps to read, which come first."""
    nodes, constants, outputs, states = _recurrent("LSTM", 4, ("h", "c"), outputs=("y", "last"))
    x = Tensor("x", "float32", ("batch", "time", FEATURES), 0, 1)
    mask = Tensor("m", "bool", ("batch", "time"), 0, 1)
    extra = [
        helper.make_node("Cast", ["m"], ["ones"], to=onnx.TensorProto.INT32),
        helper.make_node("ReduceSum", ["ones", "axis1"], ["lengths"], keepdims=0),
    ]
    if obeyed:
        lstm_node = next(node for node in nodes if node.op_type == "LSTM")
        lstm_node.input[4] = "lengths"
    manifest = make_manifest([x, mask], outputs, states)
    return make_model(manifest, [*extra, *nodes], constants)


def stateless():
    manifest = make_manifest(
        [Tensor("x", "float32", ("batch", 2), 0)], [Tensor("y", "float32", ("batch", 2), 0)], []
    )
    return make_model(manifest, [helper.make_node("Neg", ["x"], ["y"])])


def sequence(batch=2, time=7, seed=0):
    """Random input, float32 [batch, time, FEATURES]."""
    return np.random.default_rng(seed).normal(size=(batch, time, FEATURES)).astype("float32")


@dataclass(frozen=True)
class ByHand:
    """Carries the states of a model by hand, with a raw InferenceSession."""

    session: onnxruntime.InferenceSession
    pairs: dict[str, str]

    @classmethod
    def of(cls, data):
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
        return cls(session, {s.input: s.output for s in Manifest.from_json(text).states})

    def step(self, feed, state):
        """Outputs by name, and the state to feed next."""
        names = [arg.name for arg in self.session.get_outputs()]
        out = dict(zip(names, self.session.run(names, {**feed, **state}), strict=True))
        return out, {i: out[o] for i, o in self.pairs.items()}


def bindings_made(model):
    """A list that grows by each binding that is made of the model from now on."""
    made = []
    inner = model.inference_session
    original = inner.io_binding
    inner.io_binding = lambda: made.append(1) or original()
    return made


def same_states(left, right):
    """Whether two `State`s are equal to the last bit, NaN and the sign of zero included."""
    return list(left.values) == list(right.values) and all(
        left.values[name].dtype == right.values[name].dtype
        and left.values[name].shape == right.values[name].shape
        and left.values[name].tobytes() == right.values[name].tobytes()
        for name in left.values
    )


def equal_states(left, right):
    return list(left) == list(right) and all(
        left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name])
        for name in left
    )


@pytest.fixture(scope="session")
def zoo():
    """The builders above."""
    return SimpleNamespace(
        lstm=lstm,
        lstm_graph=lstm_graph,
        lstm_manifest=lstm_manifest,
        gru=gru,
        wide=wide,
        two_inputs=two_inputs,
        counter=counter,
        total=total,
        failing=failing,
        growing=growing,
        short_output=short_output,
        scaled=scaled,
        ledger=ledger,
        ledger_step=ledger_step,
        masked_lstm=masked_lstm,
        stateless=stateless,
        sequence=sequence,
        make_manifest=make_manifest,
        make_model=make_model,
        recurrent=_recurrent,
        by_hand=ByHand.of,
        bindings_made=bindings_made,
        equal_states=equal_states,
        same_states=same_states,
        replace=replace,
    )


@pytest.fixture(scope="session", name="ledger")
def ledger_model():
    """`ledger()`, loaded."""
    return Model.load(ledger())


@pytest.fixture(scope="session")
def lstm_model():
    return Model.load(lstm())


@pytest.fixture
def session(lstm_model):
    """An LSTM that gives its sequence, with a state carried over one call of 2 rows."""
    session = StatefulSession(lstm_model)
    session(sequence(seed=1))
    return session
