"""What decode refuses, before the model runs or when a token cannot be taken."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from rnnonnx.errors import (
    InputError,
    MissingManifestError,
    ModelFileError,
    RunError,
    StateError,
)
from rnnonnx.manifest import Manifest, StateTensor, Tensor
from rnnonnx.runtime import Model, decode

WORDS = 5

PROMPTS = {
    "none": (None, "no array of tokens"),
    "text": ("the", "no array of tokens"),
    "floats": ([1.0, 2.0], "no array of tokens\n.*\n.*float64"),
    "booleans": ([True], "no array of tokens"),
    "objects": ([object()], "no array of tokens"),
    "empty": ([], "empty"),
    "no steps": (np.zeros((2, 0), int), "empty"),
    "no rows": (np.zeros((0, 2), int), "empty"),
    "ragged": ([[1, 2], [3]], "rows of one length"),
    "rank 3": (np.zeros((1, 1, 1), int), r"shape \[1, 1, 1\]"),
    "negative": ([0, -1], "out of range\n.*\n.*-1"),
    "huge": (np.array([2**63], "uint64"), "out of range"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts(model, name):
    prompt, message = PROMPTS[name]
    with pytest.raises(InputError, match=message):
        decode(model, prompt)


ARGUMENTS = {
    "method": ({"method": "best"}, "'greedy' or 'sample'"),
    "method beam": ({"method": "beam"}, "beam_search"),
    "method none": ({"method": None}, "method"),
    "temperature 0": ({"method": "sample", "temperature": 0}, 'above 0\n.*\n.*method="greedy"'),
    "temperature below 0": ({"method": "sample", "temperature": -1.0}, "temperature"),
    "temperature NaN": ({"method": "sample", "temperature": float("nan")}, "temperature"),
    "temperature infinite": ({"method": "sample", "temperature": float("inf")}, "temperature"),
    "temperature text": ({"method": "sample", "temperature": "hot"}, "temperature"),
    "temperature of greedy": ({"temperature": 0.5}, r"no use for \['temperature'\]"),
    "rng of greedy": ({"rng": 1, "top_k": 2}, r"no use for \['top_k', 'rng'\]"),
    "top_k 0": ({"method": "sample", "top_k": 0}, "top_k"),
    "top_k of a float": ({"method": "sample", "top_k": 2.0}, "top_k"),
    "top_k true": ({"method": "sample", "top_k": True}, "top_k"),
    "rng": ({"method": "sample", "rng": "seed"}, "Generator"),
    "rng below 0": ({"method": "sample", "rng": -1}, "Generator"),
    "stop text": ({"stop": "."}, "stop"),
    "stop negative": ({"stop": [-1]}, "stop"),
    "stop float": ({"stop": [1.5]}, "stop"),
    "stop unknown": ({"stop": [2, WORDS]}, r"0 to 4\n.*\[5\]"),
    "max_tokens 0": ({"max_tokens": 0}, "max_tokens"),
    "max_tokens text": ({"max_tokens": "9"}, "max_tokens"),
    "min_tokens below 0": ({"min_tokens": -1}, "min_tokens"),
    "min above max": ({"min_tokens": 3, "max_tokens": 2}, "2 or less"),
    "pad": ({"pad": 0.5}, "pad"),
    "scores": ({"scores": "chances"}, "'probabilities' or 'logits'"),
    "one_hot": ({"one_hot": "yes"}, "one_hot"),
    "one_hot of ids": ({"one_hot": True}, "another meaning"),
    "input_name": ({"input_name": "word"}, r"no 'word'\n.*\['token'\]"),
    "input_name no text": ({"input_name": 3}, "no 3"),
    "output_name": ({"output_name": "state_out.gru.h"}, r"one of \['next'\]"),
    "inputs": ({"inputs": [1]}, "no mapping"),
    "inputs unknown": ({"inputs": {"x": np.zeros(1)}}, "no input 'x'"),
    "inputs with the tokens": ({"inputs": {"token": np.zeros((1, 1))}}, "takes the tokens"),
    "inputs with a state": ({"inputs": {"state_in.gru.h": np.zeros((1, 3))}}, "`state`"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(model, name):
    options, message = ARGUMENTS[name]
    with pytest.raises(InputError, match="(?s)" + message.replace(".*", "[^\n]*")):
        decode(model, [1, 2], **options)


CONTEXT = np.zeros((1, WORDS), "float32")
INPUTS = {
    "missing": ({}, r"`input_name` must be named\n.*\['token', 'context'\]"),
    "missing, token named": ({"input_name": "token"}, r"missing: \['context'\]"),
    "dtype": ({"inputs": {"context": CONTEXT.astype("float64")}}, "astype"),
    "rank": ({"inputs": {"context": CONTEXT[0]}}, "rank"),
    "size": ({"inputs": {"context": CONTEXT[:, 1:]}}, "size"),
    "rows": ({"inputs": {"context": np.zeros((2, WORDS), "float32")}}, "disagree"),
    "list": ({"inputs": {"context": CONTEXT.tolist()}}, "no array"),
    "nothing": ({"inputs": {"context": None}}, "no array"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_other_inputs(language, name):
    options, message = INPUTS[name]
    with pytest.raises(InputError, match=message):
        decode(language(context=True), [1, 2], **options)


STATES = {
    "names": ({"lstm.h": np.zeros((1, 3), "float32")}, StateError, "missing"),
    "dtype": ({"gru.h": np.zeros((1, 3))}, StateError, "astype"),
    "list": ([np.zeros((1, 3))], StateError, "no mapping"),
    "rows": ({"gru.h": np.zeros((2, 3), "float32")}, InputError, r"2 rows\n.*1 rows\n.*take"),
}


@pytest.mark.parametrize("name", STATES)
def test_states(model, name):
    state, error, message = STATES[name]
    with pytest.raises(error, match=message):
        decode(model, [1, 2], state=state)


def test_the_state_of_another_model(language, model):
    other = Model.load(language(op="LSTM")).initial_state(1)
    with pytest.raises(StateError, match="other states"):
        decode(model, [1, 2], state=other)


def test_models(zoo, tmp_path):
    for bad, error in (
        (tmp_path / "none.onnx", ModelFileError),
        (b"", ModelFileError),
        (zoo.make_model, ModelFileError),
        (None, ModelFileError),
    ):
        with pytest.raises(error):
            decode(bad, 0)
    nodes, constants = zoo.lstm_graph()
    manifest = Manifest.from_json(zoo.lstm_manifest())
    with pytest.raises(MissingManifestError):
        decode(zoo.make_model(manifest, nodes, constants, metadata=""), 0)
    with pytest.raises(StateError, match=r'no state.*\n.*states="all"'):
        decode(zoo.stateless(), 0)


def unrunnable(zoo, token, given):
    """A model with a state and these two tensors."""
    state = StateTensor("s", "s_in", "s_out", "float32", ("batch", 1))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(given.dtype))
    value = helper.make_tensor("value", kind, [1], [0])
    nodes = [
        helper.make_node("Identity", ["s_in"], ["s_out"]),
        # a shape that is not known before the model runs
        helper.make_node("Shape", [token.name], ["shape"]),
        helper.make_node("Gather", ["shape", "zeros"], ["sizes"]),
        helper.make_node("NonZero", ["sizes"], ["index"]),
        helper.make_node("Squeeze", ["index", "axis0"], ["flat"]),
        helper.make_node("Gather", ["sizes", "flat"], ["some"]),
        helper.make_node("Reshape", ["some", "rank"], ["dims"]),
        helper.make_node("ConstantOfShape", ["dims"], [given.name], value=value),
    ]
    constants = {
        "zeros": np.zeros(len(given.shape), "int64"),
        "rank": np.array([len(given.shape)], "int64"),
        "axis0": np.array([0], "int64"),
    }
    return zoo.make_model(zoo.make_manifest([token], [given], [state]), nodes, constants)


GOOD_IN = Tensor("token", "int64", ("batch", "time"), 0, 1)
GOOD_OUT = Tensor("next", "float32", ("batch", "time", 4), 0, 1)


def token_of(shape, dtype="float32", batch=0, time=1):
    return Tensor("token", dtype, shape, batch, time)


def next_of(shape, dtype="float32", batch=0, time=1):
    return Tensor("next", dtype, shape, batch, time)


TENSORS = {
    "input without a batch": (token_of((None, "time"), "int64", None), GOOD_OUT, "meaning"),
    "input of features": (token_of(("batch", "time", 3), "int64"), GOOD_OUT, "one_hot"),
    "input of 4 axes": (token_of(("batch", "time", 3, 3)), GOOD_OUT, "one_hot"),
    "one-hot of any size": (token_of(("batch", "time", None)), GOOD_OUT, "how many"),
    "a window of 8": (token_of(("batch", 8), "int64"), GOOD_OUT, "8 tokens a call"),
    "output without a batch": (GOOD_IN, next_of((None, 4), batch=None, time=None), "meaning"),
    "output without a vocabulary": (GOOD_IN, next_of(("batch", "time")), "output_name"),
    "output of numbers": (GOOD_IN, next_of(("batch", "time", 4), "int64"), "no scores"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_no_tokens_and_no_scores(zoo, name):
    token, given, message = TENSORS[name]
    with pytest.raises(InputError, match=message):
        decode(unrunnable(zoo, token, given), [1, 2])


def test_several_outputs_need_a_name(language):
    with pytest.raises(InputError, match=r"`output_name` must be named\n.*\['y', 'next'\]"):
        decode(language(second=True), 0)


def test_tokens_that_the_input_cannot_hold(language, zoo):
    one_hot = language(token=("float32", ("batch", "time", WORDS), 1), one_hot=True)
    with pytest.raises(InputError, match=r"token 5\n.*0 to 4"):
        decode(one_hot, [0, WORDS])
    small = language(token=("int8", ("batch", "time"), 1))
    with pytest.raises(InputError, match=r"token 200\n.*int8"):
        decode(small, [0, 200])


def test_a_token_outside_the_table_is_onnx_runtime_s_error(model):
    tokens = decode(model, [0, 99])
    for _ in range(2):
        with pytest.raises(RunError):
            next(tokens)
    assert tokens.state.steps == 0


def test_a_written_token_that_the_model_cannot_read(lookup):
    """The table has 2 rows and gives 3 tokens: token 2 is written, and cannot be read."""
    table = np.array([[0, 1, 0], [0, 0, 1]], "float32")
    tokens = decode(lookup(table), 0)
    assert [next(tokens).tolist(), next(tokens).tolist()] == [[1], [2]]
    with pytest.raises(RunError):
        next(tokens)
    assert tokens.state.steps == 2


def test_a_stop_token_outside_a_vocabulary_that_the_file_does_not_tell(lookup):
    data = lookup(np.eye(3, dtype="float32"), shape=("batch", None))
    tokens = decode(data, 0, stop=3)
    with pytest.raises(InputError, match=r"0 to 2\n.*\[3\]"):
        next(tokens)
