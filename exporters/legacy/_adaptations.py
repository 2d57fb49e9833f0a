"""What was adapted while a model was rebuilt, collected to be told."""

from __future__ import annotations


class Adaptations:
    """Notes on what differs from the file, one a kind, with the layers that it concerns."""

    def __init__(self) -> None:
        self._layers: dict[str, list[str]] = {}

    def add(self, what: str, layer: str = "") -> None:
        """Note an adaptation.

        Args:
            what: What was done, the same words for every layer that it was done to.
            layer: The layer's name; empty for the model as a whole.
        """
        layers = self._layers.setdefault(what, [])
        if layer and layer not in layers:
            layers.append(layer)

    def notes(self) -> tuple[str, ...]:
        """One sentence a kind, in the order in which they came up."""
        return tuple(
            f"{what}: {_listed(layers)}" if layers else what
            for what, layers in self._layers.items()
        )


def _listed(layers: list[str], most: int = 6) -> str:
    shown = ", ".join(repr(layer) for layer in layers[:most])
    return shown if len(layers) <= most else f"{shown} and {len(layers) - most} more"
