"""Functions whose arithmetic Keras 3 has changed, as Keras 2 computed them.

Compared one by one, tf_keras/src/activations.py and backend.py with
keras/src/activations/activations.py: `hard_sigmoid` is the only function of the same name
with other values.
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="rnnonnx")  # type: ignore[untyped-decorator]
def keras2_hard_sigmoid(x: Any) -> Any:
    """Keras 2's `hard_sigmoid`: `clip(0.2 x + 0.5, 0, 1)`.

    Keras 3 computes `relu6(x + 3) / 6`, which has the slope 1/6. Keras 2's is ONNX's HardSigmoid
    with its default alpha and beta.
    """
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)
