"""What the exporter makes of every layer and option, and how far it is from Keras.

Usage:
    python benchmarks/coverage.py            # print the table
    python benchmarks/coverage.py --write    # and write it to docs/coverage.md

Each row is one export of a small model with random weights, compared with Keras over several
calls, batch sizes and lengths by the check at the end of the export.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

# NOTE: read when TensorFlow is imported.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

from rich.console import Console
from rich.progress import track
from rich.table import Table

from rnnonnx.errors import ExportError
from rnnonnx.quiet import start_tensorflow

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "coverage.md"
COMMAND = "python benchmarks/coverage.py --write"
REST = "## Every combination"

# What a file is known by, in the order in which it is told; the rest is counted.
TELLING = ("LSTM", "GRU", "RNN", "Scan", "Loop", "Conv", "Gemm", "MatMul", "Einsum")
UNITS, FEATURES, BATCH = 4, 3, 2
HALF = ("float16", "mixed_float16")


@dataclass(frozen=True)
class Case:
    """One row: a layer, an option, and the model that has it.

    Attributes:
        layer: The layer or layers, as in Keras.
        option: The option, as in Keras; the mask; or what `states=` is.
        build: Creates the model.
        arguments: Further arguments of the export.
    """

    layer: str
    option: str
    build: Callable[[], Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came of a case.

    Attributes:
        content: The operators in the file, or why there is none.
        error: The largest difference from Keras, of all outputs and states; None without file.
    """

    content: str
    error: float | None


# --- the models -----------------------------------------------------------------------------


def chain(
    *makers: Callable[[], Any],
    shape: tuple[int | None, ...] = (None, FEATURES),
    dtype: str = "float32",
    batch: int | None = None,
) -> Callable[[], Any]:
    """A model of one layer after the other."""

    def build() -> Any:
        import keras

        value = keras.Input(batch_shape=(batch, *shape), dtype=dtype, name="x")
        return keras.Model(value, _call_all([make() for make in makers], value))

    return build


def _call_all(found: list[Any], value: Any) -> Any:
    for layer in found:
        value = layer(value)
    return value


def with_mask_input(make: Callable[[], Any]) -> Callable[[], Any]:
    """A model whose second input is the mask."""

    def build() -> Any:
        import keras

        value = keras.Input((None, FEATURES), name="x")
        mask = keras.Input((None,), dtype="bool", name="mask")
        return keras.Model([value, mask], make()(value, mask=mask))

    return build


def with_initial_state(make: Callable[[], Any], count: int) -> Callable[[], Any]:
    """A model whose further inputs are the initial states."""

    def build() -> Any:
        import keras

        value = keras.Input((None, FEATURES), name="x")
        states = [keras.Input((UNITS,), name=f"state_{number}") for number in range(count)]
        return keras.Model([value, *states], make()(value, initial_state=states))

    return build


def own_states(name: str) -> Callable[[], Any]:
    """A model whose inputs and outputs are the states already."""

    def build() -> Any:
        import keras

        value = keras.Input((None, FEATURES), name="x")
        names = ("h", "c") if name == "LSTM" else ("h",)
        states = [keras.Input((UNITS,), name=f"{part}_in") for part in names]
        layer = make(name, return_state=True)()
        y, *after = layer(value, initial_state=states)
        outputs = {f"{part}_out": state for part, state in zip(names, after, strict=True)}
        return keras.Model([value, *states], {"y": y, **outputs})

    return build


def make(name: str, *arguments: Any, **options: Any) -> Callable[[], Any]:
    """Creates a layer of Keras; recurrent ones have `UNITS` units if nothing else is said."""

    def create() -> Any:
        import keras

        recurrent = name in ("LSTM", "GRU", "SimpleRNN")
        given = arguments or ((UNITS,) if recurrent else ())
        return getattr(keras.layers, name)(*given, **options)

    return create


def rnn(*cells: str, **options: Any) -> Callable[[], Any]:
    """`RNN` of a cell, or of several."""

    def create() -> Any:
        import keras

        found = [getattr(keras.layers, cell)(UNITS) for cell in cells]
        return keras.layers.RNN(found if len(found) > 1 else found[0], **options)

    return create


def custom(**options: Any) -> Callable[[], Any]:
    """`RNN` of a cell that Keras does not have: a leaky sum of its inputs."""

    def create() -> Any:
        import keras

        class LeakyCell(keras.layers.Layer):  # type: ignore[misc]
            state_size = UNITS

            def build(self, shape: Any) -> None:
                self.kernel = self.add_weight(shape=(shape[-1], UNITS), name="kernel")

            def call(self, inputs: Any, states: Any) -> Any:
                state = 0.9 * states[0] + keras.ops.matmul(inputs, self.kernel)
                return keras.ops.tanh(state), [state]

        return keras.layers.RNN(LeakyCell(), **options)

    return create


def bidirectional(
    inner: Callable[[], Any], backward: Callable[[], Any] | None = None, **options: Any
) -> Callable[[], Any]:
    def create() -> Any:
        import keras

        arguments = {} if backward is None else {"backward_layer": backward()}
        return keras.layers.Bidirectional(inner(), **arguments, **options)

    return create


def time_distributed(inner: Callable[[], Any]) -> Callable[[], Any]:
    def create() -> Any:
        import keras

        return keras.layers.TimeDistributed(inner())

    return create


# --- the rows -------------------------------------------------------------------------------

LAYERS = {"LSTM": 2, "GRU": 1, "SimpleRNN": 1}
NATIVE = ("relu", "softsign", "hard_sigmoid", "elu", "leaky_relu", "linear")
OTHER = ("gelu", "selu", "silu", "softplus")


def recurrent() -> Iterator[Case]:
    """LSTM, GRU and SimpleRNN: options, states, masks, activations."""
    everything = {"states": "all"}
    for name, states in LAYERS.items():
        yield Case(name, "the default", chain(make(name)))
        for option in ("return_sequences", "return_state", "go_backwards"):
            yield Case(name, f"{option}=True", chain(make(name, **{option: True})))
        yield Case(name, "use_bias=False", chain(make(name, use_bias=False)))
        yield Case(name, "unroll=True", chain(make(name, unroll=True), shape=(5, FEATURES)))
        if name == "GRU":
            yield Case(name, "reset_after=False", chain(make(name, reset_after=False)))
        yield Case(name, "initial_state", with_initial_state(make(name), states))
        yield Case(name, "stateful=True", chain(make(name, stateful=True), batch=BATCH))
        yield Case(name, 'states="all"', chain(make(name, return_sequences=True)), everything)
        declared = {f"{part}_in": f"{part}_out" for part in "hc"[:states]}
        yield Case(name, "states={...}", own_states(name), {"states": declared})
        yield Case(name, "a mask as an input", with_mask_input(make(name, return_sequences=True)))
        zeros = make(name, return_sequences=True, zero_output_for_mask=True)
        yield Case(name, "a mask, zero_output_for_mask=True", with_mask_input(zeros))
        masking = make("Masking"), make(name, return_sequences=True)
        yield Case(name, "Masking", chain(*masking))
        yield Case(name, 'Masking, states="all"', chain(*masking), everything)
        embedding = make("Embedding", 10, FEATURES, mask_zero=True)
        yield Case(
            name,
            "Embedding(mask_zero=True)",
            chain(embedding, make(name), shape=(None,), dtype="int32"),
        )
        for activation in NATIVE + OTHER:
            yield Case(name, f'activation="{activation}"', chain(make(name, activation=activation)))


def wrapped() -> Iterator[Case]:
    """Bidirectional, and layers made of cells."""
    for merge in ("concat", "sum", "mul", "ave", None):
        for name in LAYERS:
            layer = bidirectional(make(name, return_sequences=True), merge_mode=merge)
            yield Case(f"Bidirectional({name})", f"merge_mode={merge!r}", chain(layer))
    for name, states in LAYERS.items():
        title, plain = f"Bidirectional({name})", bidirectional(make(name))
        state = bidirectional(make(name, return_state=True))
        yield Case(title, "return_state=True", chain(state))
        yield Case(title, "initial_state", with_initial_state(plain, 2 * states))
        stateful = bidirectional(make(name, stateful=True))
        yield Case(title, "stateful=True", chain(stateful, batch=BATCH))
        yield Case(title, "a mask as an input", with_mask_input(plain))
        other = make(name, UNITS + 1, go_backwards=True)
        different = bidirectional(make(name), other)
        yield Case(title, "another backward layer", chain(different))
    yield Case("Bidirectional(LSTM)", 'states="all"', chain(plain), {"states": "all"})
    everything = {"states": "all"}
    for cell in ("LSTMCell", "GRUCell", "SimpleRNNCell"):
        yield Case(f"RNN({cell})", 'states="all"', chain(rnn(cell)), everything)
        yield Case(f"Bidirectional(RNN({cell}))", "the default", chain(bidirectional(rnn(cell))))
    stack = ("LSTMCell", "GRUCell")
    stacked = rnn(*stack, return_sequences=True)
    yield Case("RNN(StackedRNNCells)", "the default", chain(stacked))
    yield Case("RNN(StackedRNNCells)", 'states="all"', chain(stacked), everything)
    yield Case("RNN(StackedRNNCells)", "a mask as an input", with_mask_input(stacked))
    kept = chain(rnn(*stack, stateful=True), batch=BATCH)
    yield Case("RNN(StackedRNNCells)", "stateful=True", kept)
    yield Case("RNN(StackedRNNCells)", "go_backwards=True", chain(rnn(*stack, go_backwards=True)))
    yield Case("RNN(a cell of one's own)", "the default", chain(custom(return_sequences=True)))
    yield Case("RNN(a cell of one's own)", 'states="all"', chain(custom()), everything)
    yield Case("RNN(a cell of one's own)", "go_backwards=True", chain(custom(go_backwards=True)))
    yield Case("RNN(a cell of one's own)", "a mask as an input", with_mask_input(custom()))
    yield Case("RNN(a cell of one's own)", "stateful=True", chain(custom(stateful=True), batch=2))


def others() -> Iterator[Case]:
    """ConvLSTM, and what stands around recurrent layers."""
    everything = {"states": "all"}
    for rank, shape in ((1, (6, 2)), (2, (5, 4, 2)), (3, (3, 4, 3, 2))):
        name, steps = f"ConvLSTM{rank}D", (None, *shape)
        yield Case(name, 'padding="valid"', chain(make(name, 2, 2), shape=steps))
        same = make(name, 2, 2, padding="same", return_sequences=True)
        yield Case(name, 'padding="same"', chain(same, shape=steps))
        yield Case(name, "strides=2", chain(make(name, 2, 2, strides=2), shape=steps))
        yield Case(name, "dilation_rate=2", chain(make(name, 2, 2, dilation_rate=2), shape=steps))
        yield Case(name, 'states="all"', chain(same, shape=steps), everything)
        stateful = make(name, 2, 2, stateful=True)
        yield Case(name, "stateful=True", chain(stateful, shape=steps, batch=BATCH))
        first = make(name, 2, 2, data_format="channels_first")
        yield Case(name, 'data_format="channels_first"', chain(first, shape=steps))
    dense = time_distributed(make("Dense", 2))
    image = time_distributed(make("Conv2D", 2, 2)), time_distributed(make("Flatten"))
    yield Case("TimeDistributed(Dense)", "the default", chain(dense))
    yield Case(
        "TimeDistributed(Conv2D)", "then LSTM", chain(*image, make("LSTM"), shape=(None, 4, 4, 1))
    )
    yield Case("TimeDistributed(Dense)", "Masking", chain(make("Masking"), dense, make("GRU")))
    for option in ({}, {"dilation_rate": 2}, {"groups": 3}):
        text = ", ".join(['padding="causal"', *(f"{k}={v}" for k, v in option.items())])
        causal = make("Conv1D", 3, 2, padding="causal", **option)
        yield Case("Conv1D", f'{text}, states="all"', chain(causal, make("GRU")), everything)
    depthwise = make("DepthwiseConv1D", 2, padding="same"), make("LSTM")
    yield Case("Conv1D", 'padding="same"', chain(make("Conv1D", 3, 2, padding="same")))
    yield Case("Conv1D", 'padding="valid", strides=2', chain(make("Conv1D", 3, 2, strides=2)))
    # of fixed length: it stands where others have their channels
    first = make("Conv1D", 3, 2, data_format="channels_first")
    yield Case("Conv1D", 'data_format="channels_first"', chain(first, shape=(FEATURES, 6)))
    yield Case("DepthwiseConv1D", "then LSTM", chain(*depthwise))
    yield Case("Dense", "then GRU", chain(make("Dense", 3, activation="gelu"), make("GRU")))
    embedding = make("Embedding", 10, FEATURES)
    yield Case("Embedding", "the default", chain(embedding, shape=(None,), dtype="int32"))
    tokens = embedding, make("GRU")
    yield Case("Embedding", "tokens as floats", chain(*tokens, shape=(None,)))
    dtypes = {"input_dtypes": {"x": "int64"}}
    yield Case("Embedding", "input_dtypes={...}", chain(*tokens, shape=(None,)), dtypes)
    yield Case("LayerNormalization", "then GRU", chain(make("LayerNormalization"), make("GRU")))
    yield Case("BatchNormalization", "then GRU", chain(make("BatchNormalization"), make("GRU")))


def dtypes() -> Iterator[Case]:
    """What computes in another dtype than float32."""
    for policy in HALF:
        option, same = f'dtype="{policy}"', {"dtype": policy, "return_sequences": True}
        for name in LAYERS:
            yield Case(name, option, chain(make(name, dtype=policy)))
        whole = make("LSTM", **same)
        yield Case("LSTM", f'{option}, states="all"', chain(whole), {"states": "all"})
        yield Case("LSTM", f"{option}, a mask as an input", with_mask_input(whole))
        kept = chain(make("GRU", dtype=policy, stateful=True), batch=BATCH)
        yield Case("GRU", f"{option}, stateful=True", kept)
        other = make("GRU", dtype=policy, activation="gelu")
        yield Case("GRU", f'{option}, activation="gelu"', chain(other))
        image = make("ConvLSTM1D", 2, 2, dtype=policy)
        yield Case("ConvLSTM1D", option, chain(image, shape=(None, 6, 2)))
        dense = make("Dense", 3, dtype=policy), make("LSTM")
        yield Case("Dense", f"{option}, then LSTM of float32", chain(*dense))
    for policy in ("mixed_bfloat16", "float64"):
        yield Case("GRU", f'dtype="{policy}"', chain(make("GRU", dtype=policy)))


# --- measuring ------------------------------------------------------------------------------


def measure(case: Case, *, verify: bool = True) -> Result:
    """Export the model of a case; without `verify` it is not compared with Keras."""
    import keras
    import numpy as np

    from rnnonnx.exporters import export

    keras.utils.clear_session()
    model = case.build()
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        # small enough that activations without a bound stay small, too
        variable.assign(random.normal(0.0, 0.3, variable.shape))
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = export(model, Path(folder) / "model.onnx", verify=verify, **case.arguments)
        except ExportError as error:
            return Result(f"refused: {str(error).splitlines()[0]}", None)
    return Result(_content(report.nodes), report.parity.max_abs if report.parity else None)


def _content(nodes: Mapping[str, int]) -> str:
    """`LSTM and 3 more`; all operators where none is telling."""
    telling = [op for op in TELLING if op in nodes] or sorted(nodes)
    text = ", ".join(op if nodes[op] == 1 else f"{nodes[op]} {op}" for op in telling)
    more = sum(nodes.values()) - sum(nodes[op] for op in telling)
    return f"{text} and {more} more" if more else text


# --- showing --------------------------------------------------------------------------------

HEADER = ("Layer", "Option", "In the file", "Largest error")


def row(case: Case, result: Result) -> tuple[str, ...]:
    error = "-" if result.error is None else f"{result.error:.1e}"
    return (case.layer, case.option, result.content, error)


def worst(results: list[tuple[Case, Result]], *, half: bool) -> float:
    """The largest error of the rows with, or without, float16."""
    return max(
        result.error
        for case, result in results
        if result.error is not None and any(f'"{name}"' in case.option for name in HALF) == half
    )


def page(results: list[tuple[Case, Result]]) -> str:
    """The results as the page of the documentation."""
    packages = ("rnnonnx", "keras", "tensorflow", "tf2onnx", "onnxruntime")
    errors = [result.error for _, result in results if result.error is not None]
    lines = [
        "# Coverage",
        "",
        "What is in the file for every layer and option, one export a row. Weights are random.",
        "The error is the largest absolute difference between ONNX Runtime and Keras, of all",
        "outputs and states, over several calls, batch sizes and lengths.",
        "",
        "*In the file* names the operators that a file is known by and counts the others, those",
        "inside of a Scan too. LSTM, GRU and RNN are ONNX's recurrent operators; a Scan runs one",
        "step of the layer at a time.",
        "",
        ", ".join(f"{name} {version(name)}" for name in packages)
        + f"; Python {platform.python_version()}.",
        "",
        "Generated by this command; do not edit:",
        "",
        "```text",
        COMMAND,
        "```",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---|---|---|---:|",
    ]
    for case, result in results:
        lines.append(
            "| " + " | ".join(cell.replace("|", r"\|") for cell in row(case, result)) + " |"
        )
    lines += [
        "",
        f"{len(results)} rows: {len(errors)} exported, {len(results) - len(errors)} refused;",
        f"largest error {worst(results, half=False):.1e};",
        f"with float16 {worst(results, half=True):.1e}.",
        "",
    ]
    return "\n".join(lines) + "\n"


def rest() -> str:
    """What the page says after the table; it is written by hand, and kept."""
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(REST) :]


def cases() -> list[Case]:
    """Every row."""
    return [*recurrent(), *wrapped(), *others(), *dtypes()]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}, too")
    arguments = parser.parse_args()
    start_tensorflow("measuring the coverage")

    console = Console()
    results = [(case, measure(case)) for case in track(cases(), "exporting", console=console)]
    table = Table()
    for title in HEADER:
        table.add_column(title, justify="right" if title == HEADER[-1] else "left")
    for case, result in results:
        table.add_row(*row(case, result))
    console.print(table)
    if arguments.write:
        PAGE.write_text(page(results) + rest(), encoding="utf-8")
        console.print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
