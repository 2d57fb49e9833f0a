"""PyTorch with the same weights, eager and compiled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .work import Array, Cell

_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
# Keras LSTM [i, f, c, o] is torch's; Keras GRU [z, r, h] -> torch [r, z, n]
_ORDER = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}


def load(folder: Path, cell: Cell) -> dict[str, Any]:
    """Eager and through torch.compile."""
    import torch

    torch.set_num_threads(1)
    spec = json.loads((folder / "layers.json").read_text(encoding="utf-8"))
    arrays = np.load(folder / "weights.npz")
    try:
        model = _build(spec, arrays)
    except NotImplementedError as error:
        return {"PyTorch": str(error), "PyTorch, compiled": str(error)}
    compiled: Any = torch.compile(model)

    def runner(function: Any) -> Any:
        def run(x: Array) -> Any:
            with torch.inference_mode():
                return function(torch.from_numpy(x)).numpy()

        return run

    found = {"PyTorch": runner(model), "PyTorch, compiled": runner(compiled)}
    try:
        found["PyTorch, compiled"](cell.draw())
    except Exception as error:  # noqa: BLE001 - the compiler's result
        found["PyTorch, compiled"] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return found


def _build(spec: list[dict[str, Any]], arrays: Any) -> Any:
    """The layers one after the other.

    Raises:
        NotImplementedError: PyTorch has no such layer.
    """
    import torch

    parts: list[Any] = []
    masks = any(layer["kind"] == "Masking" for layer in spec)
    for number, layer in enumerate(spec):
        weights = [arrays[f"{number}.{i}"] for i in range(_count(arrays, number))]
        if layer["kind"] == "Masking":
            continue
        if layer["kind"] == "Embedding":
            made = torch.nn.Embedding.from_pretrained(torch.from_numpy(weights[0]))
        elif layer["kind"] == "Dense" and layer["activation"] == "linear":
            made = torch.nn.Linear(*weights[0].shape)
            _assign(made.parameters(), [weights[0].T, weights[1]])
        elif layer["inner"] in _GATES:
            made = _recurrent(layer, weights, masked=masks)
        else:
            raise NotImplementedError(f"PyTorch has no layer for {layer['kind']}")
        parts.append(made)
    return torch.nn.Sequential(*parts).eval()


def _recurrent(layer: dict[str, Any], weights: list[Array], *, masked: bool) -> Any:
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    kind = layer["inner"]
    if not layer["reset_after"]:
        raise NotImplementedError("PyTorch's GRU resets after the product")
    both = layer["kind"] == "Bidirectional"
    units = weights[1].shape[0]
    made = getattr(torch.nn, kind.replace("Simple", ""))(
        weights[0].shape[0], units, batch_first=True, bidirectional=both
    )
    _assign(
        made.parameters(),
        [
            value
            for half in ([weights[:3], weights[3:]] if both else [weights])
            for value in _reordered(kind, half)
        ],
    )

    class Layer(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = made

        def forward(self, x: Any) -> Any:
            if masked:
                lengths = (x != 0).any(-1).sum(-1)
                _, last = made(pack_padded_sequence(x, lengths, True, enforce_sorted=False))  # noqa: FBT003
                return (last[0] if kind == "LSTM" else last)[0]
            result = made(x)[0]
            return result if layer["sequences"] else result[:, -1]

    return Layer()


def _reordered(kind: str, weights: list[Array]) -> list[Array]:
    """Keras's kernel, recurrent kernel and bias as torch's four parameters."""
    kernel, recurrent, bias = weights

    def turned(value: Array) -> Array:
        gates = np.split(value, _GATES[kind], axis=-1)
        return np.concatenate([gates[i] for i in _ORDER[kind]], axis=-1)

    pair = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))  # GRU has two
    return [turned(kernel).T, turned(recurrent).T, turned(pair[0]), turned(pair[1])]


def _assign(parameters: Any, values: list[Array]) -> None:
    import torch

    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _count(arrays: Any, number: int) -> int:
    return sum(name.startswith(f"{number}.") for name in arrays.files)
