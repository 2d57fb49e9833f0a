"""The registry of lowerings: how a Keras class becomes standard ONNX nodes.

Keys are qualified class names as strings, so that registering imports no Keras. A class
matches exactly: a subclass may have changed the arithmetic and is left to tf2onnx.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Seam = Literal["cell", "layer", "rewrite"]
"""What a lowering replaces.

`cell`: one step of a recurrent layer, which becomes a recurrent operator. `layer`: a whole
call, which becomes nodes. `rewrite`: a whole call, by TensorFlow operations that compute the
same; the reference uses it too, so it is for layers that Keras itself traces wrongly.
"""


class NotLowerableError(Exception):
    """A lowering declines: its ONNX form cannot express this configuration of the layer.

    Not an error of the export: the layer goes through tf2onnx instead, and the report
    carries the reason. It never leaves this package.
    """


@dataclass(frozen=True, slots=True)
class Lowering:
    """One registered lowering.

    Attributes:
        key: Qualified name of the Keras class, `keras.src.layers.rnn.lstm.LSTMCell`.
        seam: What the function replaces.
        since_opset: The first ONNX opset whose operators it uses.
        function: For `cell`: `(cell) -> RecurrentOp`. For the others: `(layer, tracer, *args)`
            with the layer's call arguments, returning its output tensors.
    """

    key: str
    seam: Seam
    since_opset: int
    function: Callable[..., Any]


def qualified_name(cls: type) -> str:
    """The registry's key for a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


class Registry:
    """Lowerings by class name and opset; duplicates are refused when they register."""

    def __init__(self) -> None:
        self._lowerings: dict[str, list[Lowering]] = {}

    def register(
        self, key: str, *, seam: Seam, since_opset: int
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """A decorator that adds the function as the lowering of the class `key`."""

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            known = self._lowerings.setdefault(key, [])
            if any((other.seam, other.since_opset) == (seam, since_opset) for other in known):
                raise ValueError(
                    f"{key} already has a lowering of its {seam} since opset {since_opset}"
                )
            known.append(Lowering(key, seam, since_opset, function))
            return function

        return add

    def find(self, cls: type, seam: Seam, opset: int) -> Lowering | None:
        """The newest lowering of `cls` at `seam` that `opset` allows, or None."""
        fitting = [
            lowering
            for lowering in self._lowerings.get(qualified_name(cls), [])
            if lowering.seam == seam and lowering.since_opset <= opset
        ]
        return max(fitting, key=lambda lowering: lowering.since_opset, default=None)

    def __iter__(self) -> Any:
        return (lowering for group in self._lowerings.values() for lowering in group)


registry = Registry()


def load_lowerings() -> Registry:
    """Import every module of `lowerings/`, once, and return the filled registry."""
    from .lowerings import MODULES

    assert MODULES  # noqa: S101 - importing the package has registered them
    return registry
