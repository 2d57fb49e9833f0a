"""Functions whose arithmetic Keras 3 has changed, as Keras 2 computed them.

Of the activations that both know under one name (elu, exponential, gelu, hard_sigmoid, linear,
mish, relu, selu, sigmoid, softmax, softplus, softsign, swish, tanh), tests have found other
values in `hard_sigmoid` alone.
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
