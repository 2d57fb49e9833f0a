"""Random Keras models: what one is made of, how it is drawn, and how it is built.

`draw_spec` takes a function that chooses one of several values, so that Hypothesis and a
seeded generator draw from the same space. The first value of every choice is the simplest,
which is where Hypothesis shrinks to. A spec prints as Python that builds the model again:
`build(Spec(...))`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops

VOCABULARY = 11
FEATURES = 3
LENGTH = 6  # of a model that declares one
KINDS = ("none", "stateful", "all")

ACTIVATIONS = (
    *("tanh", "tanh", "tanh", "relu", "sigmoid", "linear", "softsign", "hard_sigmoid", "elu"),
    *("softplus", "gelu", "silu", "selu", "leaky_relu", "hard_tanh", "mish", "relu6"),
)
# bounded: a gate that is not makes any sequence explode
GATES = ("sigmoid", "sigmoid", "sigmoid", "hard_sigmoid", "softsign", "tanh", "hard_tanh")
BOUNDED = ("tanh", "sigmoid", "softsign", "hard_sigmoid", "hard_tanh", "relu6")
OFTEN, RARELY = (True, True, True, False), (False, False, False, False, True)
EITHER = (False, True)

Choose = Callable[..., Any]


@dataclass(frozen=True)
class Part:
    """One layer, or an arrangement of layers.

    Attributes:
        kind: A name of `keras.layers`, or of an arrangement in `_ARRANGEMENTS`.
        options: Arguments of the layer.
        parts: What it holds.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def walk(self) -> Iterator[Part]:
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass(frozen=True)
class Spec:
    """One model.

    Attributes:
        states: The argument of the export.
        front: What the input meets first: an Embedding (the input is then tokens), Masking
            or nothing.
        body: What comes after, one after the other.
        declared: Whether the input declares its length.
        outputs: How many of the body's last values are outputs beside the last.
        seed: Of the weights.
    """

    states: str
    front: tuple[Part, ...]
    body: tuple[Part, ...]
    declared: bool = False
    outputs: int = 0
    seed: int = 0

    def walk(self) -> Iterator[Part]:
        for part in (*self.front, *self.body):
            yield from part.walk()

    def has(self, option: str) -> bool:
        return any(part.options.get(option) for part in self.walk())

    @property
    def stateful(self) -> bool:
        return self.has("stateful")

    @property
    def tokens(self) -> bool:
        return any(part.kind == "Embedding" for part in self.front)

    @property
    def mask_value(self) -> float | None:
        for part in self.front:
            if part.kind == "Masking":
                return float(part.options["mask_value"])
            if part.options.get("mask_zero"):
                return 0.0
        return None


# --- drawing --------------------------------------------------------------------------------


def seeded_spec(seed: int) -> Spec:
    """The model of a number."""
    # NOTE: not for secrets; the generator's sequence is the same on every machine.
    source = random.Random(seed)  # noqa: S311

    def choose(*values: Any) -> Any:
        return source.choice(values)

    return draw_spec(choose, KINDS[seed % len(KINDS)])


def draw_spec(choose: Choose, kind: str) -> Spec:
    """Draw a model.

    Args:
        choose: Gives one of its arguments.
        kind: `none`: no state is lifted; `stateful`: layers may be stateful; `all`: layers
            may be stateful, and the state of all is lifted.
    """
    front: tuple[Part, ...] = choose(
        (),
        (Part("Embedding", {"output_dim": 4}),),
        (Part("Embedding", {"output_dim": 3, "mask_zero": True}),),
        (Part("Masking", {"mask_value": 0.0}),),
        (Part("Masking", {"mask_value": -1.0}),),
    )
    body = [_middle(choose, kind, depth=0) for _ in range(choose(1, 2, 3))]
    if kind == "none" and choose(*RARELY):
        body.insert(choose(0, len(body)), _shortening(choose))
    if not any("Bidirectional" in p.kind or "units" in p.options for b in body for p in b.walk()):
        body.append(_recurrent(choose, kind, sequences=True))
    body += _end(choose, kind)
    return Spec(
        states="all" if kind == "all" else "stateful",
        front=front,
        body=tuple(body),
        declared=choose(*RARELY),
        outputs=choose(0, 0, 0, 1, 2),
        seed=choose(*range(20)),
    )


def _middle(choose: Choose, kind: str, depth: int) -> Part:
    """A part that keeps the number of steps."""
    recurrent: tuple[Callable[[], Part], ...] = (
        lambda: _recurrent(choose, kind, sequences=True),
    ) * 5
    plain: tuple[Callable[[], Part], ...] = (
        lambda: Part("Dense", {"units": 3, "activation": choose(None, *ACTIVATIONS)}),
        lambda: Part("LayerNormalization", {"scale": choose(True, False)}),
        lambda: Part("BatchNormalization"),
        lambda: Part(choose("Dropout", "SpatialDropout1D"), {"rate": 0.4}),
        lambda: Part("TimeDistributed", {}, (Part("Dense", {"units": choose(4, 2)}),)),
        lambda: Part("Activation", {"activation": choose(*ACTIVATIONS)}),
        lambda: _convolution(choose, kind),
        lambda: _convolution(choose, kind),
    )
    arrangements: tuple[Callable[[], Part], ...] = (
        lambda: Part("residual", {}, _some(choose, kind, depth)),
        lambda: Part(
            "branches",
            {},
            (
                Part("sequence", {}, _some(choose, kind, depth)),
                Part("sequence", {}, _some(choose, kind, depth)),
            ),
        ),
        lambda: Part("nested", {}, _some(choose, kind, depth)),
        lambda: Part("shared", {}, (_recurrent(choose, kind, sequences=True),)),
        lambda: Part(
            "handover",
            {"class": choose("LSTM", "GRU", "SimpleRNN"), "units": choose(3, 1)},
        ),
    )
    makers = (*recurrent, *plain, *(arrangements if depth < 2 else ()))
    return choose(*makers)()


def _some(choose: Choose, kind: str, depth: int) -> tuple[Part, ...]:
    return tuple(_middle(choose, kind, depth + 1) for _ in range(choose(1, 2)))


def _convolution(choose: Choose, kind: str) -> Part:
    # a convolution that looks ahead cannot be streamed: seldom there, where it is refused
    causal = ("causal",) * 5 if kind == "all" else ("causal",)
    options = {
        "kernel_size": choose(3, 1, 2),
        "padding": choose(*causal, "same"),
        "dilation_rate": choose(1, 1, 2, 3),
        "use_bias": choose(*OFTEN),
        "activation": choose(None, "relu", "tanh", "gelu"),
    }
    kinds = ("Conv1D",) * (8 if kind == "all" else 2)
    name = choose(*kinds, "SeparableConv1D", "DepthwiseConv1D")
    if name != "Conv1D":
        options["padding"] = "same"  # Keras has no causal padding for these
    if name == "DepthwiseConv1D":
        return Part(name, options | {"depth_multiplier": choose(1, 2)})
    if name == "Conv1D":
        options["groups"] = choose(1, 1, 1, 2)
    return Part(name, options | {"filters": choose(4, 2, 6)})


def _shortening(choose: Choose) -> Part:
    """A part after which there are fewer steps."""
    return choose(
        Part("MaxPooling1D", {"pool_size": 2}),
        Part("AveragePooling1D", {"pool_size": 2, "padding": "same"}),
        Part("Conv1D", {"filters": 4, "kernel_size": 3, "padding": "valid"}),
        Part("Conv1D", {"filters": 4, "kernel_size": 2, "padding": "valid", "dilation_rate": 2}),
        Part("Conv1D", {"filters": 4, "kernel_size": 3, "padding": "same", "strides": 2}),
    )


def _end(choose: Choose, kind: str) -> list[Part]:
    last = ("last",) * 4 if kind == "all" else ("last",)
    end = choose("sequence", *last, "GlobalMaxPooling1D", "GlobalAveragePooling1D")
    parts = []
    if end == "last":
        recurrent = _recurrent(choose, kind, sequences=False)
        returned = choose(False, False, True)
        parts.append(Part("states", {}, (recurrent,)) if returned else recurrent)
    elif end != "sequence":
        parts.append(Part(end))
    if choose(*EITHER):
        parts.append(Part("Dense", {"units": 2, "activation": choose(None, "softmax", "sigmoid")}))
    return parts


def _recurrent(choose: Choose, kind: str, *, sequences: bool) -> Part:
    name = choose("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional")
    if name != "Bidirectional":
        return _layer(choose, kind, name, sequences=sequences)
    name = choose("LSTM", "GRU", "SimpleRNN", "RNN")
    halves = [_layer(choose, kind, name, sequences=sequences, half=True)]
    if choose(*RARELY):
        # Keras wants the halves to agree in these, and reads the second backwards
        other = _layer(choose, kind, choose("LSTM", "GRU"), sequences=sequences, half=True)
        shared = {key: halves[0].options[key] for key in ("stateful", "zero_output_for_mask")}
        shared |= {"go_backwards": not halves[0].options["go_backwards"]}
        if name == "RNN":  # its width is its cell's
            other = halves[0]
        else:
            halves[0].options["units"] = other.options["units"] = 3
        halves.append(Part(other.kind, other.options | shared, other.parts))
    merge = choose("concat", "concat", "sum", "mul", "ave", None)
    return Part("Bidirectional", {"merge_mode": merge}, tuple(halves))


def _layer(choose: Choose, kind: str, name: str, *, sequences: bool, half: bool = False) -> Part:
    seldom = (False,) * 15 + (True,)
    backwards = choose(*(seldom if half or kind == "all" else RARELY))
    options: dict[str, Any] = {
        "return_sequences": sequences,
        # What reads backwards cannot be streamed: seldom there, where it is refused. Keras
        # makes no second half for a first one that reads backwards.
        "go_backwards": backwards and not half,
        "stateful": False if kind == "none" else choose(*EITHER),
        "unroll": choose(*seldom),
        "zero_output_for_mask": choose(*RARELY),
    }
    if name == "RNN":
        if choose(*OFTEN):
            return Part(name, options, (_cell(choose),))
        return Part(name, options, tuple(_cell(choose) for _ in range(2)))
    return Part(name, options | _cell_options(choose, name))


def _cell(choose: Choose) -> Part:
    name = choose("LSTM", "GRU", "SimpleRNN", "LeakyCell", "TwoStateCell")
    if name.endswith("Cell"):
        return Part(name, {"units": choose(3, 2)})
    return Part(f"{name}Cell", _cell_options(choose, name))


def _cell_options(choose: Choose, name: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "units": choose(3, 1, 4),
        "activation": choose(*ACTIVATIONS),
        "use_bias": choose(*OFTEN),
        "dropout": choose(0.0, 0.0, 0.3),
        "recurrent_dropout": choose(0.0, 0.0, 0.3),
    }
    if name != "SimpleRNN":
        options["recurrent_activation"] = choose(*GATES)
    if name == "GRU":
        options["reset_after"] = choose(*OFTEN)
        # With a gate below 0 it doubles what is unbounded, step by step: no two programs that
        # round differently agree on the result.
        if options["activation"] not in BOUNDED:
            options["recurrent_activation"] = "sigmoid"
    return options


# --- building -------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("random_models")
class LeakyCell(layers.Layer):
    """A cell that starts from ones: a leaky average of a product."""

    def __init__(self, units: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.units = self.state_size = units

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        return [ops.ones((batch_size, self.units), dtype=self.compute_dtype)]

    def call(self, inputs: Any, states: Any) -> tuple[Any, list[Any]]:
        (old,) = states
        new = ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(old, self.recurrent))
        new = 0.75 * old + 0.25 * new
        return new, [new]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("random_models")
class TwoStateCell(layers.Layer):
    """A cell with states of two sizes, and an output that is neither."""

    def __init__(self, units: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.units = units
        self.state_size = [units, 1]
        self.output_size = units + 1

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.gate = self.add_weight(shape=(self.units, 1), name="gate")

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        return [ops.zeros((batch_size, size), dtype=self.compute_dtype) for size in self.state_size]

    def call(self, inputs: Any, states: Any) -> tuple[Any, list[Any]]:
        hidden, level = states
        level = 0.5 * level + ops.sigmoid(ops.matmul(hidden, self.gate))
        hidden = ops.softsign(ops.matmul(inputs, self.kernel) + 0.5 * hidden * level)
        return ops.concatenate([hidden, level], axis=-1), [hidden, level]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


CELLS = {"LeakyCell": LeakyCell, "TwoStateCell": TwoStateCell}


class _Builder:
    """Builds layers, and numbers their names through the model."""

    def __init__(self) -> None:
        self._count = 0

    def name(self, kind: str) -> str:
        self._count += 1
        # unlike Keras's own names, `concatenate_7`, with which an operation could clash
        return f"{kind.lower()}_{self._count:03}"

    def layer(self, part: Part, **more: Any) -> Any:
        options = dict(part.options) | more
        held = [self.layer(inner) for inner in part.parts]
        if part.kind == "RNN":
            held = held if len(held) == 1 else [held]
        if part.kind == "Bidirectional" and len(held) == 2:
            options["backward_layer"] = held.pop()
        maker = CELLS.get(part.kind) or getattr(layers, part.kind)
        return maker(*held, **options, name=self.name(part.kind))

    def apply(self, part: Part, x: Any) -> Any:
        """What comes out of a part; `[batch, time, width]` of any width."""
        arrange = _ARRANGEMENTS.get(part.kind)
        if arrange is not None:
            return arrange(self, part, x)
        if part.options.get("groups", 1) > 1 and x.shape[-1] % part.options["groups"]:
            return self.layer(part, groups=1)(x)
        result = self.layer(part)(x)
        if isinstance(result, (list, tuple)):  # a Bidirectional that does not merge
            return layers.Concatenate(name=self.name("merge"))(list(result))
        return result

    def sequence(self, parts: tuple[Part, ...], x: Any) -> Any:
        for part in parts:
            x = self.apply(part, x)
        return x


def _residual(builder: _Builder, part: Part, x: Any) -> Any:
    inner = builder.sequence(part.parts, x)
    inner = layers.Dense(x.shape[-1], name=builder.name("project"))(inner)
    return layers.Add(name=builder.name("add"))([x, inner])


def _branches(builder: _Builder, part: Part, x: Any) -> Any:
    ends = [builder.apply(branch, x) for branch in part.parts]
    return layers.Concatenate(name=builder.name("concatenate"))(ends)


def _nested(builder: _Builder, part: Part, x: Any) -> Any:
    start = keras.Input(batch_shape=x.shape)
    model = keras.Model(start, builder.sequence(part.parts, start), name=builder.name("nested"))
    return model(x)


def _shared(builder: _Builder, part: Part, x: Any) -> Any:
    """One layer, called twice; what is between makes the widths agree."""
    layer = builder.layer(part.parts[0])

    def call(value: Any) -> Any:
        result = layer(value)
        if isinstance(result, (list, tuple)):
            return layers.Concatenate(name=builder.name("merge"))(list(result))
        return result

    between = layers.Dense(x.shape[-1], name=builder.name("between"))(call(x))
    return call(between)


def _handover(builder: _Builder, part: Part, x: Any) -> Any:
    """An encoder that hands its state to a decoder."""
    maker = getattr(layers, part.options["class"])
    encoder = maker(part.options["units"], return_state=True, name=builder.name("encoder"))
    decoder = maker(part.options["units"], return_sequences=True, name=builder.name("decoder"))
    _, *states = encoder(x)
    return decoder(x, initial_state=states)


def _states(builder: _Builder, part: Part, x: Any) -> Any:
    """The last output of a layer and its states, side by side."""
    inner = part.parts[0]
    if inner.kind == "Bidirectional":
        return builder.apply(inner, x)
    results = builder.layer(inner, return_state=True)(x)
    return layers.Concatenate(name=builder.name("concatenate"))(keras.tree.flatten(results))


_ARRANGEMENTS: dict[str, Callable[[_Builder, Part, Any], Any]] = {
    "residual": _residual,
    "branches": _branches,
    "sequence": lambda builder, part, x: builder.sequence(part.parts, x),
    "nested": _nested,
    "shared": _shared,
    "handover": _handover,
    "states": _states,
}


def build(spec: Spec, *, batch: int | None = None, length: int | None = None) -> keras.Model:
    """Build a model; two of the same spec have the same weights.

    Args:
        spec: What it is made of.
        batch: The batch that it declares; a stateful one needs it.
        length: The length that it declares; one that is unrolled needs it.
    """
    builder = _Builder()
    shape = (batch, length) if spec.tokens else (batch, length, FEATURES)
    dtype = "int32" if spec.tokens else "float32"
    start = keras.Input(batch_shape=shape, dtype=dtype, name="x")
    hidden, values = start, []
    for part in spec.front:
        more = {"input_dim": VOCABULARY} if part.kind == "Embedding" else {}
        hidden = builder.layer(part, **more)(hidden)
    for part in spec.body:
        hidden = builder.apply(part, hidden)
        values.append(hidden)
    *before, last = values
    extra = before[len(before) - min(spec.outputs, len(before)) :]
    model = keras.Model(start, [last, *extra] if extra else last, name="random_model")
    _randomize(model, spec.seed)
    return model


def _randomize(model: keras.Model, seed: int) -> None:
    """Weights that hide nothing, and keep values moderate."""
    source = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        fan = 1 if variable.ndim < 2 else max(1, int(np.prod(variable.shape[:-1])))
        offset = 1.0 if variable.name == "gamma" else 0.0
        value = offset + source.normal(0.0, 0.3 if fan == 1 else 0.8 / fan**0.5, variable.shape)
        variable.assign(value.astype("float32"))
    for variable in model.non_trainable_variables:
        if variable.name == "moving_mean":
            variable.assign(source.normal(0.0, 0.3, variable.shape))
        elif variable.name == "moving_variance":
            variable.assign(source.uniform(0.5, 2.0, variable.shape))


def draw_input(spec: Spec, batch: int, length: int, source: np.random.Generator) -> np.ndarray:
    """Random values that fit, with gaps and an empty row where the model masks."""
    if spec.tokens:
        value = source.integers(1 if spec.mask_value == 0 else 0, VOCABULARY, (batch, length))
        value = value.astype("int32")
    else:
        value = source.normal(0.0, 1.0, (batch, length, FEATURES)).astype("float32")
    if spec.mask_value is not None:
        value[source.random((batch, length)) < 0.3] = spec.mask_value
        value[-1, : length // 2] = spec.mask_value
        if batch > 2:
            value[1] = spec.mask_value
    return value
