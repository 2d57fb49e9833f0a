"""What the exporter's tests share: models with weights that hide nothing, and two runners."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from rnnonnx._parity import compare_one
from rnnonnx.manifest import METADATA_KEY, Manifest

TOLERANCE = 1e-5


@dataclass
class File:
    """An exported file: its graph, its manifest, and raw ONNX Runtime on it."""

    path: object

    def __post_init__(self):
        self.model = onnx.load(self.path)
        metadata = {entry.key: entry.value for entry in self.model.metadata_props}
        self.manifest = Manifest.from_json(metadata[METADATA_KEY])
        self.session = onnxruntime.InferenceSession(
            str(self.path), providers=["CPUExecutionProvider"]
        )
        self.inputs = {value.name: _dims(value) for value in self.model.graph.input}
        self.outputs = {value.name: _dims(value) for value in self.model.graph.output}

    def nodes(self, graph=None):
        for node in (graph or self.model.graph).node:
            yield node
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from self.nodes(attribute.g)

    def ops(self):
        """How many nodes of each operator, subgraphs included."""
        found = {}
        for node in self.nodes():
            found[node.op_type] = found.get(node.op_type, 0) + 1
        return found

    def unused_inputs(self):
        read = {name for node in self.nodes() for name in node.input}
        return [name for name in self.inputs if name not in read]

    def initial(self, batch):
        return {state.input: state.initial(batch) for state in self.manifest.states}

    def step(self, feed, states):
        """One call by hand: outputs in order, and what to feed as states next."""
        names = [tensor.name for tensor in self.manifest.outputs]
        wanted = names + [state.output for state in self.manifest.states]
        results = self.session.run(wanted, {**feed, **states})
        after = dict(
            zip(
                [state.input for state in self.manifest.states],
                results[len(names) :],
                strict=True,
            )
        )
        return results[: len(names)], after

    def run(self, value, states=None):
        """As `step`, for a model of one input, from the first states if none are given."""
        feed = {self.manifest.inputs[0].name: value}
        return self.step(feed, states or self.initial(value.shape[0]))

    def steps(self):
        """The bodies of the Scans."""
        return [
            attribute.g
            for node in self.model.graph.node
            if node.op_type == "Scan"
            for attribute in node.attribute
            if attribute.name == "body"
        ]

    def step_products(self):
        """How many products and convolutions run once a step."""
        products = ("MatMul", "Gemm", "Conv", "Einsum")
        return sum(node.op_type in products for body in self.steps() for node in body.node)

    def assert_scan(self, count=1):
        """Scans, no Loop, and nothing foreign: of a model whose layers are called `rnn...`."""
        found = self.ops()
        assert found.get("Scan") == count
        assert not {"Loop", "If"} & set(found)
        assert {node.domain for node in self.nodes()} <= {"", "ai.onnx"}
        onnx.checker.check_model(self.model, full_check=True)
        for body in self.steps():
            assert not body.initializer  # weights are in the file once, outside
            assert all(node.name.startswith("rnn") for node in body.node)


def _dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.fixture
def exported(tmp_path):
    """Exports a model and opens the file."""
    from rnnonnx.exporters import export

    def run(model, **arguments):
        path = tmp_path / "model.onnx"
        report = export(model, path, **arguments)
        file = File(path)
        file.report = report
        return file

    return run


@pytest.fixture
def randomized():
    """Gives every weight of a model a random value: fresh biases are zero and hide mistakes."""

    def run(model, seed=0):
        random = np.random.default_rng(seed)
        for variable in model.trainable_variables:
            variable.assign(random.normal(0.0, 0.4, variable.shape))
        return model

    return run


@pytest.fixture
def close():
    """Asserts that arrays agree to 1e-5 relative to max(1, |value|), in shape and in dtype."""

    def run(got, expected):
        error = compare_one(np.asarray(expected), got, TOLERANCE)
        assert error.ok, f"off by {error.max_abs:.3g} at {error.where}"

    return run


@pytest.fixture(autouse=True)
def _fresh_names():
    """Keras numbers layers through the whole process; tests name them from the start."""
    keras.backend.clear_session()


@pytest.fixture(scope="session")
def tf_keras():
    """Keras 2 as it lives on, beside Keras 3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tf_keras
    return tf_keras


def pytest_terminal_summary(terminalreporter):
    """How far the published files are from Keras 2, a line each."""
    for report in terminalreporter.getreports("passed"):
        found = [value for name, value in report.user_properties if name == "error"]
        if found and report.when == "call":
            name = dict(report.user_properties).get("published")
            terminalreporter.write_line(f"{name}: largest difference {max(found):.1e}")
