"""The weights of CuDNNLSTM and CuDNNGRU as those of LSTM and GRU.

cuDNN keeps the matrices of each gate transposed, the input kernel moreover in column-major
order, and two biases: one that is added to the input product and one to the recurrent
product. The order of the gates is Keras's. The rule is Keras 2's own:
tf_keras/src/saving/legacy/hdf5_format.py, `_convert_rnn_weights`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rnnonnx.errors import ModelFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GATES = {"LSTM": 4, "GRU": 3}
"""Gates by the class of the layer: LSTM i, f, c, o; GRU z, r, h."""


def from_cudnn(
    class_name: str, arrays: Sequence[np.ndarray], *, name: str
) -> list[np.ndarray] | None:
    """Convert a layer's weights if they are laid out as cuDNN's.

    Args:
        class_name: `LSTM` or `GRU`, the class that is to take them.
        arrays: Kernel `[features, gates * units]`, recurrent kernel `[units, gates * units]`,
            bias `[2 * gates * units]` in cuDNN's layout.
        name: The layer's name.

    Returns:
        Kernel and recurrent kernel of the same shapes, bias `[4 * units]` for an LSTM and
        `[2, 3 * units]` for a GRU with `reset_after=True`. None if the weights are in Keras's
        layout already, which only the shape of the bias tells.

    Raises:
        ModelFileError: The bias has a size that neither layout has.
    """
    if class_name not in GATES or len(arrays) != 3:
        return None
    gates = GATES[class_name]
    kernel, recurrent, bias = arrays
    units = recurrent.shape[0]
    if bias.ndim != 1 or bias.shape[0] == gates * units:
        return None
    if bias.shape[0] != 2 * gates * units:
        raise ModelFileError(
            f"the bias of layer {name!r} has a size that no {class_name} has",
            expected=f"{gates * units}, or {2 * gates * units} in cuDNN's layout",
            received=bias.shape[0],
        )
    both = bias.reshape(2, gates * units)  # [input bias, recurrent bias]
    return [
        # [features, units] of a gate: the numbers of its transpose, read in column-major order
        _by_gate(kernel, gates, lambda gate: gate.T.reshape(gate.shape, order="F")),
        _by_gate(recurrent, gates, np.transpose),
        both.sum(axis=0) if class_name == "LSTM" else both,
    ]


def _by_gate(matrix: np.ndarray, gates: int, function: Callable[[Any], Any]) -> np.ndarray:
    """Apply a function to the columns of each gate, `[rows, units]`."""
    return np.hstack([function(part) for part in np.hsplit(matrix, gates)])
