"""What the tests of the systems share: weights, comparison, and a client without rnnonnx.

The reference is Keras itself, called here and not through `rnnonnx.verify` or the exporter's
check: a mistake in those cannot hide itself. Weights are random throughout. Fresh biases are
zero and fresh recurrent kernels orthogonal, under which some wrong gate orders look right.
"""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TOLERANCE = 1e-5
"""Largest absolute difference between ONNX Runtime and Keras, float32."""


@pytest.fixture(scope="session")
def randomise():
    """Gives a Keras model random weights and biases, the same for the same seed."""

    def fill(model, seed=0):
        random = np.random.default_rng(seed)
        for variable in model.weights:
            if variable.name == "embeddings":
                spread = 1.0
            elif len(variable.shape) == 1:
                spread = 0.5
            else:  # keeps gates and states in their curved, lively range
                spread = variable.shape[0] ** -0.5
            variable.assign(random.normal(0, spread, variable.shape).astype(np.float32))
        return model

    return fill


@pytest.fixture(scope="session")
def close():
    """Asserts that an array is Keras's, in shape, dtype and every value."""

    def check(got, want):
        got, want = np.asarray(got), np.asarray(want)
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        worst = np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0.0)
        assert worst <= TOLERANCE, f"off by {worst:.1e}"

    return check


class Plain:
    """A file in plain ONNX Runtime, the state carried by its names alone, without a manifest.

    `state_out.X` is fed back into `state_in.X`, as any client in any language would.
    """

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.outputs = [
            output.name
            for output in self.session.get_outputs()
            if not output.name.startswith("state_out.")
        ]
        self.sizes = {
            item.name: item.shape[1:]
            for item in self.session.get_inputs()
            if item.name.startswith("state_in.")
        }
        self.state = None

    def __call__(self, **inputs):
        batch = next(iter(inputs.values())).shape[0]
        if self.state is None:
            zeros = {k: np.zeros((batch, *size), np.float32) for k, size in self.sizes.items()}
            self.state = zeros
        fetch = [*self.outputs, *(name.replace("_in.", "_out.", 1) for name in self.state)]
        results = self.session.run(fetch, {**inputs, **self.state})
        count = len(self.outputs)
        self.state = dict(zip(self.state, results[count:], strict=True))
        return results[0] if count == 1 else results[:count]


@pytest.fixture(scope="session")
def plain():
    """The class `Plain`."""
    return Plain


@pytest.fixture(scope="session")
def count_ops():
    """Counts the nodes of a file by operator, those of subgraphs too."""

    def walk(graph):
        for node in graph.node:
            yield node.op_type
            for attribute in node.attribute:
                for body in [attribute.g, *attribute.graphs]:
                    yield from walk(body)

    def count(path, scans=0):
        ops = Counter(walk(onnx.load(path).graph))
        assert not {"Loop", "If"} & set(ops), "a control flow op where none is needed"
        assert ops["Scan"] == scans
        return ops

    return count


@pytest.fixture(scope="session")
def example():
    """Loads an example by the beginning of its name; gives its names as a dict."""

    def load(number):
        (path,) = EXAMPLES.glob(f"{number}_*.py")
        return runpy.run_path(str(path))

    return load
