"""The forms of LSTM, GRU and RNN in a file, timed beside ONNX Runtime's own operators.

Usage:
    python benchmarks/formulations.py            # print the table that the rule was read from

An operator stands in a file as it is, or as a Scan: with its input product before the Scan (RNN),
or with one product of input and state for each gate (LSTM, GRU). The rule is that of
`exporters/_forms.py`. One thread, processor time, the least of many rounds by turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from _measure import machine, markdown
from _peers.onnxruntime_peer import session
from onnx import TensorProto, helper, numpy_helper

from rnnonnx.exporters._forms import FormsPass, rows_for_scan

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FEATURES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--units", type=int, nargs="*", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 8, 16, 32, 64, 128])
    arguments = parser.parse_args()
    table = []
    for op in GATES:
        for units in arguments.units:
            cells = [
                f"{ratio(op, units, rows, arguments.steps, arguments.rounds):.2f}"
                for rows in arguments.rows
            ]
            rule = "always" if op == "RNN" else f"from {rows_for_scan(op, units)}"
            table.append([op, str(units), *cells, rule])
            print(" | ".join(table[-1]), flush=True)
    header = ["Operator", "Units", *(f"{rows} rows" for rows in arguments.rows), "The rule"]
    print(f"\n{machine(['onnxruntime'])}\n\nTime of the Scan divided by the operator's:\n")
    print(markdown(header, table))


def ratio(op: str, units: int, rows: int, steps: int, rounds: int) -> float:
    """The time of the Scan divided by that of the operator."""
    model = operator(op, units, rows)
    sessions = [session(data) for data in (model.SerializeToString(), as_scan(model))]
    x = np.random.default_rng(0).normal(size=(steps, rows, FEATURES)).astype("float32")
    results = [each.run(None, {"x": x})[0] for each in sessions]
    if not np.abs(results[0] - results[1]).max() < 1e-4:
        raise SystemExit(f"{op} {units} x {rows}: the two differ")
    least = [np.inf, np.inf]
    for _ in range(rounds):
        for index, each in enumerate(sessions):
            least[index] = min(least[index], _seconds(each, x))
    return least[1] / least[0]


def _seconds(each: Any, x: Any, wanted: float = 0.01) -> float:
    begin, done = time.thread_time(), 0
    while time.thread_time() - begin < wanted:
        each.run(None, {"x": x})
        done += 1
    return (time.thread_time() - begin) / done


def operator(op: str, units: int, rows: int) -> Any:
    """A graph of one operator with random weights of a usual size."""
    random = np.random.default_rng(1)

    def weights(*shape: int) -> Any:
        return (random.normal(size=shape) / max(shape[-1], 1) ** 0.5).astype("float32")

    constants = {
        "W": weights(1, GATES[op] * units, FEATURES),
        "R": weights(1, GATES[op] * units, units),
        "B": weights(1, 2 * GATES[op] * units),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node(
            op,
            ["x", "W", "R", "B"],
            ["Y"],
            name="rnn/op",
            hidden_size=units,
            **({"linear_before_reset": 1} if op == "GRU" else {}),
        ),
        helper.make_node("Squeeze", ["Y", "axis"], ["y"]),
    ]

    def info(name: str, shape: Sequence[Any]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "one",
        [info("x", ["time", rows, FEATURES])],
        [info("y", ["time", rows, units])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def as_scan(model: Any) -> bytes:
    """The same in its other form, whatever the rule says of this number of rows."""
    from rnnonnx.exporters import _forms

    rule, _forms.rows_for_scan = _forms.rows_for_scan, lambda _op, _units: 1
    try:
        changed = FormsPass("throughput")(ir.from_proto(model)).model
    finally:
        _forms.rows_for_scan = rule
    ir.passes.common.TopologicalSortPass()(changed)
    ir.passes.common.NameFixPass()(changed)
    data: bytes = ir.to_proto(changed).SerializeToString()
    return data


if __name__ == "__main__":
    main()
