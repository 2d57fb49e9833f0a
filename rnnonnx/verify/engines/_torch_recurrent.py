"""Keras's recurrent layers as `torch.nn.LSTM`, `GRU` and `RNN`.

Gates: Keras's LSTM has [i, f, c, o], PyTorch's [i, f, g, o], where g is c; Keras's GRU has
[z, r, h], PyTorch's [r, z, n], with the reset gate applied after the product, as with
`reset_after=True`. Keras keeps [in, gates * units], PyTorch [gates * units, in].

A masked step keeps the state and repeats the output before it (zeros before the first valid
one), or gives zeros: PyTorch's modules know lengths alone, so they are then stepped one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import torch

from ._torch_values import Carried, Value, refused

if TYPE_CHECKING:
    from collections.abc import Callable

_L = keras.layers

RECURRENT = (_L.LSTM, _L.GRU, _L.SimpleRNN)


@dataclass(frozen=True, slots=True)
class _Module:
    """A module of PyTorch with a plain list of states, `[batch, units]` each.

    Attributes:
        module: `torch.nn.LSTM`, `GRU` or `RNN`, batch first.
        parts: The names of its states, as Keras orders them.
    """

    module: Any
    parts: tuple[str, ...]

    def run(self, sequence: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """Outputs `[batch, time, units]` and the states after."""
        # [batch, units] -> [layers * directions, batch, units]
        inside = [state.unsqueeze(0).contiguous() for state in states]
        packed = tuple(inside) if len(inside) > 1 else inside[0]
        outputs, after = self.module(sequence, packed)
        after = after if isinstance(after, tuple) else (after,)
        return outputs, [state.squeeze(0) for state in after]

    def run_masked(
        self, sequence: Any, states: list[Any], mask: Any, last: Any, *, zeros: bool
    ) -> tuple[Any, list[Any]]:
        """The same under a mask; `last` is what a masked step repeats at first."""
        given = []
        for index in range(sequence.shape[1]):
            valid = mask[:, index : index + 1]
            output, after = self.run(sequence[:, index : index + 1], states)
            states = [torch.where(valid, new, old) for new, old in zip(after, states, strict=True)]
            shown = output[:, 0]
            given.append(torch.where(valid, shown, torch.zeros_like(last) if zeros else last))
            last = torch.where(valid, shown, last)
        return torch.stack(given, dim=1), states


def recurrent(layer: Any, path: str, prefix: str = "") -> Callable[..., Any]:
    """A recurrent layer as a function of the states, a sequence, and what Keras passes on.

    Args:
        layer: An LSTM, GRU or SimpleRNN.
        path: Its path, for messages.
        prefix: What its states are called before the dot; its path by default.

    Raises:
        UnsupportedLayerError: It has options that PyTorch's module does not.
    """
    module = _module(layer, path)
    names = [f"{prefix or path}.{part}" for part in module.parts]

    def call(carried: Carried, x: Value, initial_state: Any = None) -> Any:
        sequence = x.tensor.flip(1) if layer.go_backwards else x.tensor
        valid = x.mask.flip(1) if x.mask is not None and layer.go_backwards else x.mask
        given = [value.tensor for value in keras.tree.flatten(initial_state or [])]
        zeros = [torch.zeros(len(sequence), layer.units) for _ in module.parts]
        lifted = [carried.before.get(name) for name in names]
        states = given or [
            zero if state is None else state for zero, state in zip(zeros, lifted, strict=True)
        ]
        if any(name in carried.after for name in names):
            raise refused(path, "it is called more than once, each call with a state of its own")
        if valid is None:
            outputs, after = module.run(sequence, states)
        else:
            # Keras begins with zeros; a layer that is streamed goes on with its state, which is
            # the output before
            streamed = not layer.stateful and not given and lifted[0] is not None
            outputs, after = module.run_masked(
                sequence,
                states,
                valid,
                states[0] if streamed else zeros[0],
                zeros=layer.zero_output_for_mask,
            )
        for name, state, known in zip(names, after, lifted, strict=True):
            if known is not None and not given:
                carried.after[name] = state
        shown = Value(outputs, x.mask) if layer.return_sequences else Value(outputs[:, -1])
        return [shown, *map(Value, after)] if layer.return_state else shown

    return call


def bidirectional(layer: Any, path: str) -> Callable[..., Any]:
    """Both halves, and the backward one's sequence turned round, as Keras merges them.

    Raises:
        UnsupportedLayerError: A half cannot be rebuilt.
    """
    halves = (layer.forward_layer, layer.backward_layer)
    if not all(type(half) in RECURRENT for half in halves) or layer.return_state:
        raise refused(path, "its halves are other layers than LSTM, GRU, SimpleRNN, or give states")
    if layer.merge_mode not in ("concat", "sum", "ave", "mul"):
        raise refused(path, f"its merge_mode is {layer.merge_mode!r}")
    forward, backward = (
        recurrent(half, f"{path}/{half.name}", f"{path}.{side}")
        for half, side in zip(halves, ("forward", "backward"), strict=True)
    )

    def call(carried: Carried, x: Value, initial_state: Any = None) -> Value:
        given = keras.tree.flatten(initial_state or [])
        half = len(given) // 2
        ahead = forward(carried, x, given[:half] or None)
        behind = backward(carried, x, given[half:] or None)
        turned = behind.tensor.flip(1) if layer.return_sequences else behind.tensor
        pair = (ahead.tensor, turned)
        merged = {
            "concat": lambda a, b: torch.cat((a, b), dim=-1),
            "sum": torch.add,
            "ave": lambda a, b: (a + b) / 2,
            "mul": torch.mul,
        }[layer.merge_mode](*pair)
        return Value(merged, x.mask if layer.return_sequences else None)

    return call


def _module(layer: Any, path: str) -> _Module:
    name = {_L.LSTM: "tanh", _L.GRU: "tanh", _L.SimpleRNN: layer.activation.__name__}[type(layer)]
    if layer.activation is not getattr(keras.activations, name, None) or name not in (
        "tanh",
        "relu",
    ):
        raise refused(path, f"its activation is {layer.activation.__name__!r}")
    gated = type(layer) is not _L.SimpleRNN
    if gated and layer.recurrent_activation is not keras.activations.sigmoid:
        raise refused(path, f"its recurrent_activation is {layer.recurrent_activation.__name__!r}")
    if type(layer) is _L.GRU and not layer.reset_after:
        raise refused(path, "it has reset_after=False, and PyTorch's GRU resets after the product")
    cell = layer.cell
    size, units = int(cell.kernel.shape[0]), layer.units
    made = {
        _L.LSTM: lambda: torch.nn.LSTM(size, units, batch_first=True),
        _L.GRU: lambda: torch.nn.GRU(size, units, batch_first=True),
        _L.SimpleRNN: lambda: torch.nn.RNN(size, units, nonlinearity=name, batch_first=True),
    }[type(layer)]()
    order = [1, 0, 2] if type(layer) is _L.GRU else None  # Keras [z, r, h] -> PyTorch [r, z, n]
    gates = int(cell.kernel.shape[1]) // units
    bias = np.array(cell.bias) if cell.use_bias else np.zeros(gates * units, np.float32)
    # a GRU's bias is [2, gates * units]: of the input, and of the recurrence
    pair = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
    for target, value in (
        (made.weight_ih_l0, np.array(cell.kernel).T),
        (made.weight_hh_l0, np.array(cell.recurrent_kernel).T),
        (made.bias_ih_l0, pair[0]),
        (made.bias_hh_l0, pair[1]),
    ):
        target.data = torch.from_numpy(np.ascontiguousarray(_reordered(value, order, units)))
    return _Module(made, ("h", "c") if type(layer) is _L.LSTM else ("h",))


def _reordered(value: Any, order: list[int] | None, units: int) -> Any:
    """Blocks of `units` along the first axis in another order."""
    if order is None:
        return value
    return np.concatenate([value[gate * units : (gate + 1) * units] for gate in order])
