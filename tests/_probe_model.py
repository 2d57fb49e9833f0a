"""How `rnnonnx/probe.onnx` was made: the model that `rnnonnx doctor` starts providers with.

`python tests/_probe_model.py` writes it anew; a test compares the two.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rnnonnx.manifest import METADATA_KEY, Manifest, Source, StateTensor, Tensor

PATH = Path(__file__).parent.parent / "rnnonnx" / "probe.onnx"


def probe_model() -> onnx.ModelProto:
    """An LSTM of one unit and one feature, of the opset that CUDA registered it for."""
    states = [
        StateTensor(
            f"lstm.{part}",
            f"state_in.lstm.{part}",
            f"state_out.lstm.{part}",
            "float32",
            ("batch", 1),
        )
        for part in "hc"
    ]
    x, y = (Tensor(name, "float32", ("batch", "time", 1), 0, 1) for name in "xy")
    manifest = Manifest(
        producer="rnnonnx",
        source=Source("onnx", "probe", "sha256:" + "0" * 64),
        inputs=(x,),
        outputs=(y,),
        states=tuple(states),
    )
    constants = {
        "W": np.full((1, 4, 1), 0.5, np.float32),
        "R": np.full((1, 4, 1), 0.5, np.float32),
        "axis0": np.array([0], np.int64),
        "axis1": np.array([1], np.int64),
    }

    def node(op, inputs, outputs, **attributes):
        name = f"probe/{outputs[0]}"
        return helper.make_node(op, inputs, outputs, name=name, **attributes)

    nodes = [
        node("Transpose", ["x"], ["x_time"], perm=[1, 0, 2]),  # [time, batch, 1]
        *(node("Unsqueeze", [state.input, "axis0"], [f"{state.name}_0"]) for state in states),
        node(
            "LSTM",
            ["x_time", "W", "R", "", "", "lstm.h_0", "lstm.c_0"],
            ["Y", "lstm.h_n", "lstm.c_n"],
            hidden_size=1,
        ),
        *(node("Squeeze", [f"{state.name}_n", "axis0"], [state.output]) for state in states),
        node("Squeeze", ["Y", "axis1"], ["y_time"]),
        node("Transpose", ["y_time"], ["y"], perm=[1, 0, 2]),  # [batch, time, 1]
    ]

    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "probe",
        [info("x", x.shape), *(info(state.input, state.shape) for state in states)],
        [info("y", y.shape), *(info(state.output, state.shape) for state in states)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    PATH.write_bytes(probe_model().SerializeToString(deterministic=True))
