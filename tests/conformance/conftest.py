"""What the grids share: groups of layers in one file, each layer compared with Keras by itself.

A file costs seconds and a layer in it a fraction of one, so that eight layers or more run side
by side in a model. Every one is still a configuration of its own: its outputs, its states and
its operators are looked at one by one, and a failure names those that are wrong.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from dataclasses import dataclass, field

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers

from rnnonnx._parity import compare_one
from rnnonnx.exporters import export
from rnnonnx.manifest import METADATA_KEY, Manifest

TOLERANCE = 1e-5
FEATURES, UNITS = 3, 4
ROWS = 5
"""The batch of stateful models; as many as there are mask patterns."""

LENGTHS = (5, 3, 4, 1, 2)
RECURRENT = ("LSTM", "GRU", "RNN", "Scan", "If")


def right_padded(random, time):
    return np.arange(time) < random.integers(1, time + 1)


def left_padded(random, time):
    return right_padded(random, time)[::-1]


def gaps(random, time):
    return random.random(time) < 0.5


def no_step(_random, time):
    return np.zeros(time, bool)


def every_step(_random, time):
    return np.ones(time, bool)


PATTERNS = (right_padded, left_padded, gaps, no_step, every_step)


@dataclass
class Config:
    """One layer of a group, and how it is called.

    Attributes:
        title: Its options in words, for a failure.
        layer: The layer; its name is what the nodes of the file begin with.
        ops: How many recurrent operators it must be, by type.
        initial: Units of each initial state that it takes from the model's inputs.
    """

    title: str
    layer: object
    ops: dict[str, int]
    initial: tuple[int, ...] = ()


@dataclass
class Group:
    """Layers side by side in one model, exported once.

    Attributes:
        configs: The layers.
        masked: Whether they get the mask that is an input of the model.
        stateful: Whether they keep their state.
        states: The argument of the export.
        length: The only length, if the input declares one.
        optimize: The argument of the export.
        apart: Whether each reads a sequence of its own. Two operators that read one sequence
            in its two directions become one, also those of different layers.
        path: The ONNX file to write.
    """

    configs: list[Config]
    masked: bool
    stateful: bool
    apart: bool
    path: object
    states: str = "stateful"
    length: int | None = None
    optimize: str = "balanced"
    errors: list[str] = field(default_factory=list)
    largest: float = 0.0

    def __post_init__(self):
        self.random = np.random.default_rng(len(self.configs))
        self.model = self._build()
        for variable in self.model.trainable_variables:
            variable.assign(self.random.normal(0.0, 0.4, variable.shape))
        # the check at the end of an export is not wanted here: this is the check
        export(
            self.model,
            self.path,
            states=self.states,
            optimize=self.optimize,
            verify=False,
        )
        self.file = onnx.load(self.path)
        metadata = {entry.key: entry.value for entry in self.file.metadata_props}
        self.manifest = Manifest.from_json(metadata[METADATA_KEY])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(self.path), options, providers=["CPUExecutionProvider"]
        )

    def _build(self):
        batch = ROWS if self.stateful else None
        inputs, outputs, self.owners = {}, [], []

        def give(name, shape, dtype="float32"):
            if name not in inputs:
                inputs[name] = keras.Input(batch_shape=(batch, *shape), dtype=dtype, name=name)
            return inputs[name]

        for index, config in enumerate(self.configs):
            x = give("x", (self.length, FEATURES))
            if self.apart:
                x = keras.layers.Rescaling(1.0 + 0.1 * index, name=f"scale{index}")(x)
            arguments = {"mask": give("mask", (self.length,), "bool")} if self.masked else {}
            if config.initial:
                arguments["initial_state"] = [
                    give(f"s{number}_{units}", (units,))
                    for number, units in enumerate(config.initial)
                ]
            results = keras.tree.flatten(config.layer(x, **arguments))
            outputs += results
            self.owners += [config] * len(results)
        return keras.Model(list(inputs.values()), outputs)

    def check_graph(self):
        """The operators are there for each layer, and nothing else runs step by step."""
        counts = Counter(node.op_type for node in _nodes(self.file.graph))
        unwanted = {"Loop"} if self.optimize == "throughput" else {"Loop", "If"}
        if found := unwanted & set(counts):
            self.errors.append(f"the file has {found}")
        for config in self.configs:
            ops = Counter(
                node.op_type
                for node in self.file.graph.node
                if node.op_type in RECURRENT and node.name.startswith(f"{config.layer.name}/")
            )
            if ops != config.ops:
                self.errors.append(f"{config.title}: has {dict(ops)}, not {config.ops}")

    def check_calls(self):
        """Each call of `_calls`, stateful ones with the state of the call before."""
        states = self._first(ROWS)
        for batch, time, mask in self._calls():
            if not self.stateful:
                states = self._first(batch)
            feed = {
                tensor.name: self._draw(tensor.name, tensor.shape, batch, time, mask)
                for tensor in self.model.inputs
            }
            got, states = self._step(feed, states)
            expected = self.model(list(feed.values()), training=False)
            where = f"on {batch} x {time}"
            for config, mine, theirs in zip(self.owners, got, expected, strict=True):
                self._compare(config, where, mine, theirs)
            if self.stateful:
                self._compare_states(where, states)

    def _first(self, batch):
        return {state.input: state.initial(batch) for state in self.manifest.states}

    def check_chunks(self):
        """With `states="all"`, chunk by chunk gives what Keras gives for the whole sequence.

        A layer whose initial state is an input of the model takes it anew for each chunk, and
        is left out.
        """
        mask = np.stack([pattern(self.random, 7) for pattern in PATTERNS])
        feed = {
            tensor.name: self._draw(tensor.name, tensor.shape, ROWS, 7, mask)
            for tensor in self.model.inputs
        }
        expected = self.model(list(feed.values()), training=False)
        states, parts = self._first(ROWS), []
        for chunk in (slice(0, 3), slice(3, 4), slice(4, 7)):
            cut = {
                name: value[:, chunk] if name in ("x", "mask") else value
                for name, value in feed.items()
            }
            got, states = self._step(cut, states)
            parts.append(got)
        for index, (config, whole) in enumerate(zip(self.owners, expected, strict=True)):
            if config.initial:
                continue
            pieces = [part[index] for part in parts]
            sequence = self.manifest.outputs[index].time_axis == 1
            mine = np.concatenate(pieces, axis=1) if sequence else pieces[-1]
            self._compare(config, "in chunks", mine, whole)

    def _step(self, feed, states):
        wanted = [t.name for t in self.manifest.outputs]
        after = [state.output for state in self.manifest.states]
        results = self.session.run([*wanted, *after], {**feed, **states})
        return results[: len(wanted)], dict(zip(states, results[len(wanted) :], strict=True))

    def _calls(self):
        """Batch, length and mask of each call.

        Stateful layers get one batch after the other, in which every row has another kind of
        mask, and every kind comes to every row. Others get a batch of each kind.
        """
        if self.stateful:
            for call, time in enumerate(LENGTHS if self.masked else LENGTHS[:3]):
                time = self.length or time
                rows = [PATTERNS[(row + call) % ROWS](self.random, time) for row in range(ROWS)]
                yield ROWS, time, np.stack(rows)
        elif self.masked:
            for call, pattern in enumerate(PATTERNS):
                batch, time = 1 + call % 3, self.length or LENGTHS[call] + 1
                rows = [pattern(self.random, time) for _ in range(batch)]
                yield batch, time, np.stack(rows)
            time = self.length or 4
            yield ROWS, time, np.stack([pattern(self.random, time) for pattern in PATTERNS])
        else:
            for batch, time in [(1, 1), (3, 6), (2, 3)]:
                yield batch, self.length or time, None

    def _draw(self, name, shape, batch, time, mask):
        if name == "mask":
            return mask
        size = (batch, time, FEATURES) if name == "x" else (batch, shape[-1])
        return self.random.normal(size=size).astype("float32")

    def _compare_states(self, where, states):
        for config in self.configs:
            prefix = f"state_in.{config.layer.name}."
            mine = [value for name, value in states.items() if name.startswith(prefix)]
            halves = [half.states or () for half in _halves(config.layer)]
            theirs = keras.tree.flatten(halves)
            if len(mine) != len(theirs):
                self.errors.append(f"{config.title}: {len(mine)} states, not {len(theirs)}")
                continue
            for got, expected in zip(mine, theirs, strict=True):
                self._compare(config, f"{where}, a state", got, expected)

    def _compare(self, config, where, got, expected):
        error = compare_one(np.asarray(expected), got, TOLERANCE)
        self.largest = max(self.largest, error.max_rel)
        if not error.ok:
            found = f"off by {error.max_rel:.1e} at {error.where}"
            self.errors.append(f"{config.title}: {where}: {found}")


def _nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _halves(layer):
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    return [layer]


@pytest.fixture
def conforms(tmp_path, record_property):
    """Exports a group of configurations and compares each with Keras."""

    def run(configs, *, masked, stateful, apart=False, states="stateful", **more):
        path = tmp_path / "group.onnx"
        group = Group(configs, masked, stateful, apart, path, states, **more)
        group.check_graph()
        group.check_calls()
        if states == "all" and not stateful:
            group.check_chunks()
        record_property("configurations", len(configs))
        record_property("largest", group.largest)
        assert not group.errors, "\n".join(group.errors)

    return run


@pytest.fixture
def config():
    """The class `Config`."""
    return Config


@dataclass(frozen=True)
class Options:
    """The options that the layers of a group have in common.

    Attributes:
        name: The class of `keras.layers`.
        arguments: More of its arguments.
        mask: `no mask`, `mask`, or `zeros where masked`.
        backwards: `go_backwards`.
        stateful: `stateful`.
    """

    name: str
    arguments: dict[str, object]
    mask: str
    backwards: bool
    stateful: bool

    @property
    def streams(self):
        """Whether `states="all"` takes them.

        What reads backwards is streamed only if it is stateful, what is masked only if it is not
        (a masked step at a call's beginning gives zeros then).
        """
        if self.stateful and not self.backwards:
            return self.mask != "mask"
        return self.stateful or not self.backwards

    def group(self, ops, turn):
        """A layer for each combination of the options that they have not in common.

        Half of the combinations, by turns: every pair of values of any two options is in either
        half. All with RNNONNX_GRID=all in the environment.

        Args:
            ops: How many recurrent operators each must be, by type.
            turn: Which half.
        """
        words = ("return_sequences", "return_state", "use_bias", "initial_state")
        whole = os.environ.get("RNNONNX_GRID") == "all"
        states = (UNITS,) * (2 if self.name == "LSTM" else 1)
        group = []
        for number, values in enumerate(itertools.product([False, True], repeat=len(words))):
            if not whole and sum(values) % 2 != turn % 2:
                continue
            sequences, state, bias, given = values
            layer = getattr(layers, self.name)(
                UNITS,
                return_sequences=sequences,
                return_state=state,
                use_bias=bias,
                go_backwards=self.backwards,
                stateful=self.stateful,
                zero_output_for_mask=self.mask == "zeros where masked",
                name=f"rnn{number}",
                **self.arguments,
            )
            title = " ".join(word for word, on in zip(words, values, strict=True) if on) or "none"
            group.append(Config(title, layer, ops, states if given else ()))
        return group


@pytest.fixture
def options():
    """The class `Options`."""
    return Options


@pytest.fixture(autouse=True)
def _fresh_names():
    keras.backend.clear_session()


def pytest_terminal_summary(terminalreporter):
    """The totals, one line a grid."""
    totals = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            found = dict(report.user_properties)
            if "configurations" not in found:
                continue
            total = totals.setdefault(report.nodeid.split("::")[0], Counter())
            total[outcome] += found["configurations"]
            total["largest"] = max(total["largest"], found["largest"])
    for path, total in sorted(totals.items()):
        terminalreporter.write_line(
            f"{path}: {total['passed']} configurations in groups that pass, {total['failed']} "
            f"in groups that fail; largest error {total['largest']:.1e}"
        )
