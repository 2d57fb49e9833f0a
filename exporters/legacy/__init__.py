"""Models that Keras 2 wrote, rebuilt in Keras 3 with the arithmetic that they were trained with.

The parts: the classes that a file may name (`_classes`), one layer's arguments (`_arguments`), the
layer (`_layers`), one of the user's own (`_custom`), the model around it (`_graph`), its weights
(`_weights`, `_archive_weights`, `_cudnn`), functions whose arithmetic has changed
(`_arithmetic`), SavedModel directories (`_saved_model`), and what is told about it all
(`_adaptations`).
"""

from __future__ import annotations

from ._adaptations import Adaptations
from ._archive_weights import assign_archive
from ._arithmetic import keras2_hard_sigmoid
from ._classes import KERAS2_LAYERS
from ._graph import Rebuilder
from ._json import plain
from ._saved_model import read_saved_model_config, read_saved_model_weights
from ._weights import LayerWeights, assign_weights, read_layer_weights

__all__ = [
    "KERAS2_LAYERS",
    "Adaptations",
    "LayerWeights",
    "Rebuilder",
    "assign_archive",
    "assign_weights",
    "keras2_hard_sigmoid",
    "plain",
    "read_layer_weights",
    "read_saved_model_config",
    "read_saved_model_weights",
]
