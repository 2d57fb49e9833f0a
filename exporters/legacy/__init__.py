"""Models that Keras 2 wrote, rebuilt in Keras 3 with the arithmetic that they were trained with.

The parts: one layer's arguments (`_arguments`), the layer (`_layers`), the model around it
(`_graph`), its weights (`_weights`, `_cudnn`), functions whose arithmetic has changed
(`_saved_model`), and what is told about it all (`_adaptations`).
"""

from __future__ import annotations

from ._adaptations import Adaptations
from ._archive_weights import assign_archive
from ._arithmetic import keras2_hard_sigmoid
from ._graph import Rebuilder
from ._saved_model import read_saved_model_config, read_saved_model_weights
from ._weights import LayerWeights, assign_weights, read_layer_weights

__all__ = [
    "Adaptations",
    "LayerWeights",
    "Rebuilder",
    "assign_archive",
    "assign_weights",
    "keras2_hard_sigmoid",
    "read_layer_weights",
    "read_saved_model_config",
    "read_saved_model_weights",
]
