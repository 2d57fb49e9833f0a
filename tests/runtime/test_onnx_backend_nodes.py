"""ONNX's own node tests of RNN, GRU and LSTM, run through `StatefulSession`.

`onnx.backend.test` builds them in memory: a model of one node each, what it is fed and what
is due. Each is given a manifest. An initial state and the final state that belongs to it are
a state where the model has both, and an ordinary input or output where it has one.
"""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import pytest

from rnnonnx import RnnonnxError
from rnnonnx.annotate import embed_manifest
from rnnonnx.errors import ModelFileError
from rnnonnx.manifest import Manifest, Source, StateTensor, Tensor
from rnnonnx.runtime import StatefulSession

NODES = "onnx.backend.test.case.node"
CASES = (
    "test_gru_bidirectional",
    "test_gru_defaults",
    "test_gru_reverse",
    "test_gru_seq_length",
    "test_gru_with_initial_bias",
    "test_lstm_bidirectional",
    "test_lstm_defaults",
    "test_lstm_reverse",
    "test_lstm_with_initial_bias",
    "test_lstm_with_peepholes",
    "test_rnn_seq_length",
    "test_simple_rnn_bidirectional",
    "test_simple_rnn_defaults",
    "test_simple_rnn_reverse",
    "test_simple_rnn_with_initial_bias",
)
BATCHWISE = ("test_gru_batchwise", "test_lstm_batchwise", "test_simple_rnn_batchwise")

# The operators' formal names, in their order; LSTM has two more.
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")
# (batch axis, time axis) of tensors in time-major layout; the others are weights
AXES = {
    "X": (1, 0),  # [time, batch, features]
    "sequence_lens": (0, None),  # [batch]
    "initial_h": (1, None),  # [directions, batch, units]
    "initial_c": (1, None),
    "Y": (2, 0),  # [time, directions, batch, units]
    "Y_h": (1, None),  # [directions, batch, units]
    "Y_c": (1, None),
}
# The same with layout=1.
BATCHWISE_AXES = {"X": (0, 1), "Y": (0, 1), "Y_h": (0, None)}
PAIRS = {"initial_h": "Y_h", "initial_c": "Y_c"}


@pytest.fixture(scope="module")
def cases():
    """ONNX's cases by name.

    NOTE: `collect_testcases` imports the tests of every operator, which takes many times as
    long as all of ours; the modules of three fill the same list.
    """
    for operator in ("rnn", "gru", "lstm"):
        importlib.import_module(f"{NODES}.{operator}")
    found = importlib.import_module(NODES)._NodeTestCases
    return {
        case.name: case
        for case in found
        if case.model.graph.node[0].op_type in ("RNN", "GRU", "LSTM")
    }


def tensor(value, axes):
    """A manifest's entry for a value of the graph."""
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    batch_axis, time_axis = axes
    if batch_axis is not None:
        dims[batch_axis] = "batch"
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return Tensor(value.name, str(dtype), tuple(dims), batch_axis, time_axis)


def with_manifest(model, axes):
    """The model's bytes with a manifest."""
    graph = model.graph
    (node,) = graph.node
    # what the model calls each of the operator's inputs and outputs, where it has it
    formal = dict(zip(node.input, INPUTS, strict=False))
    formal |= dict(zip(node.output, OUTPUTS, strict=False))
    graph_names = {name: actual for actual, name in formal.items() if actual}
    pairs = {
        graph_names[first]: graph_names[last]
        for first, last in PAIRS.items()
        if first in graph_names and last in graph_names
    }
    tensors = {
        value.name: tensor(value, axes.get(formal[value.name], (None, None)))
        for value in (*graph.input, *graph.output)
    }
    states = tuple(
        StateTensor(taken, taken, given, tensors[taken].dtype, tensors[taken].shape)
        for taken, given in pairs.items()
    )
    manifest = Manifest(
        producer="test",
        source=Source("onnx", graph.name, "sha256:" + "0" * 64),
        inputs=tuple(tensors[v.name] for v in graph.input if v.name not in pairs),
        outputs=tuple(tensors[v.name] for v in graph.output if v.name not in pairs.values()),
        states=states,
    )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return embed_manifest(copy, manifest).SerializeToString()


def test_every_case_is_here(cases):
    assert sorted(cases) == sorted(CASES + BATCHWISE)
    assert len(cases) == 18


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_onnx(cases, name):
    case = cases[name]
    session = StatefulSession(with_manifest(case.model, AXES))
    manifest = session.manifest
    states = {state.input: state for state in manifest.states}
    assert set(states) == ({"initial_h"} if name == "test_lstm_with_peepholes" else set())
    for taken, due in case.data_sets:
        feed = dict(zip([v.name for v in case.model.graph.input], taken, strict=True))
        first = {state.name: feed.pop(state.input) for state in manifest.states}
        if first:
            session.set_states(first)
        got = dict(zip([t.name for t in manifest.outputs], session.run(None, feed), strict=True))
        if first:
            after = session.get_states()
            got |= {state.output: after[state.name] for state in manifest.states}
        for value, expected in zip(case.model.graph.output, due, strict=True):
            assert got[value.name].dtype == expected.dtype
            np.testing.assert_allclose(got[value.name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BATCHWISE)
def test_batchwise_layout_is_refused(cases, name):
    """ONNX Runtime has no kernel for it; the error is ours, and says what it is about."""
    with pytest.raises(RnnonnxError, match=r"layout == 1\) are not supported") as caught:
        StatefulSession(with_manifest(cases[name].model, BATCHWISE_AXES))
    assert type(caught.value) is ModelFileError
