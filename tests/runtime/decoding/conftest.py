"""Models of language, built node by node: a table of embeddings, a GRU or LSTM, a projection."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from rnnonnx.manifest import StateTensor, Tensor
from rnnonnx.runtime import Model

WORDS = 5


@pytest.fixture(scope="session")
def language(zoo):
    """Builds the bytes of a model of WORDS tokens that reads `token` and gives `next`."""

    def build(
        *,
        op="GRU",
        token=("int64", ("batch", "time"), 1),
        one_hot=False,
        last=False,
        scores="probabilities",
        context=False,
        second=False,
        sharp=2.0,
        bias=None,
    ):
        rng = np.random.default_rng(5)
        gates, parts = {"GRU": (3, ("h",)), "LSTM": (4, ("h", "c"))}[op]
        outputs = ("last",) if last else ("y",)
        nodes, constants, (features,), states = zoo.recurrent(
            op, gates, parts, x_name="x", outputs=outputs
        )
        dtype, shape, time_axis = token
        inputs = [Tensor("token", dtype, shape, 0, time_axis)]
        constants["table"] = rng.normal(size=(WORDS, 2)).astype("float32")
        constants["projection"] = (sharp * rng.normal(size=(3, WORDS))).astype("float32")
        constants["bias"] = np.zeros(WORDS, "float32") if bias is None else bias
        read = "token"
        first = []
        if time_axis is None and len(shape) == (2 if one_hot else 1):
            first.append(helper.make_node("Unsqueeze", ["token", "axis1"], ["token_time"]))
            read = "token_time"
        if one_hot:
            first.append(helper.make_node("Cast", [read], ["token_float"], to=1))
            first.append(helper.make_node("MatMul", ["token_float", "table"], ["x"]))
        else:
            first.append(helper.make_node("Cast", [read], ["token_whole"], to=7))
            first.append(helper.make_node("Gather", ["table", "token_whole"], ["x"]))
        time = () if last else ("time",) if time_axis is not None else (1,)
        given = Tensor(
            "next", "float32", ("batch", *time, WORDS), 0, 1 if time == ("time",) else None
        )
        nodes = [*first, *nodes, helper.make_node("MatMul", [features.name, "projection"], ["m"])]
        end = "m"
        if context:
            # [batch, WORDS], the same at every step
            inputs.append(Tensor("context", "float32", ("batch", WORDS), 0))
            rows = "context"
            if not last:
                nodes.append(helper.make_node("Unsqueeze", ["context", "axis1"], ["context_time"]))
                rows = "context_time"
            nodes.append(helper.make_node("Add", ["m", rows], ["m_context"]))
            end = "m_context"
        nodes.append(helper.make_node("Add", [end, "bias"], ["logits"]))
        op_type = "Softmax" if scores == "probabilities" else "Identity"
        options = {"axis": -1} if scores == "probabilities" else {}
        nodes.append(helper.make_node(op_type, ["logits"], ["next"], **options))
        outputs = [given]
        if second:
            outputs.insert(0, features)
        constants.setdefault("axis1", np.array([1], "int64"))
        used = {name for node in nodes for name in node.input}
        constants = {name: value for name, value in constants.items() if name in used}
        return zoo.make_model(zoo.make_manifest(inputs, outputs, states), nodes, constants)

    return build


@pytest.fixture(scope="session")
def lookup(zoo):
    """Builds a model without memory, whose state is only carried: next = table[token]."""

    def build(
        table,
        *,
        token=("batch",),
        given=("batch",),
        times=(None, None),
        last_node=None,
        state=("batch", 1),
        pinned="batch",
        shape=None,
    ):
        table = np.asarray(table)
        state = StateTensor("s", "s_in", "s_out", "float32", state)
        inputs = [Tensor("token", "int64", token, token.index("batch"), times[0])]
        shape = shape or (given if table.shape[1] in given else (*given, table.shape[1]))
        outputs = [Tensor("next", table.dtype.name, shape, shape.index("batch"), times[1])]
        nodes = [helper.make_node("Identity", ["s_in"], ["s_out"])]
        if last_node is None:
            nodes.append(helper.make_node("Gather", ["table", "token"], ["next"]))
        else:
            node, more = last_node
            nodes += [helper.make_node("Gather", ["table", "token"], ["rows"]), node]
            inputs += more
        manifest = zoo.make_manifest(inputs, outputs, [state])
        shapes = {
            name: [pinned if dim == "batch" else dim for dim in shape]
            for name, shape in {"token": token, "next": shape, **names_of(state)}.items()
        }
        return zoo.make_model(manifest, nodes, {"table": table}, graph_shapes=shapes)

    def names_of(state):
        return {state.input: state.shape, state.output: state.shape}

    return build


@pytest.fixture(scope="session")
def fixed_scores(lookup):
    """Builds a model that gives the same scores whatever it reads."""
    return lambda scores, dtype="float32": lookup(np.array([scores] * len(scores), dtype))


@pytest.fixture(scope="session")
def model(language):
    """The plain one: ids in, probabilities of every step out."""
    return Model.load(language())


class Oracle:
    """Reads tokens one by one with a raw InferenceSession, without any of the project's code."""

    def __init__(self, by_hand, rows, units=3, **feed):
        self.by_hand, self.feed = by_hand, feed
        self.state = {name: np.zeros((rows, units), "float32") for name in by_hand.pairs}

    def read(self, tokens):
        """`tokens` [batch]; the probabilities that come next, float64 [batch, WORDS]."""
        token = np.asarray(tokens, "int64")[:, None]
        out, self.state = self.by_hand.step({"token": token, **self.feed}, self.state)
        scores = out["next"].astype("float64")
        return scores[:, -1] if scores.ndim == 3 else scores


@pytest.fixture(scope="session")
def oracle(zoo):
    """Starts an `Oracle` on a model of integer tokens."""

    def start(data, rows, **feed):
        return Oracle(zoo.by_hand(data), rows, **feed)

    return start
