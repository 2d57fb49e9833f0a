"""Conv1D -> ONNX Conv (version 11).

Keras has `[batch, time, channels]` and a kernel of `[steps, channels / groups, filters]`, ONNX
`[batch, channels, time]` and `[filters, channels / groups, steps]`. TensorFlow traces a
convolution over time to a two-dimensional one, and one with groups to a compiled function
that tf2onnx cannot see into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._registry import NotLowerableError, registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._builder import GraphBuilder
    from .._tracer import Tracer


@registry.register("keras.src.layers.convolutional.conv1d.Conv1D", seam="layer", since_opset=14)
def lower(layer: Any, tracer: Tracer, inputs: Any) -> Any:
    """`keras.layers.Conv1D`: `[batch, time, channels]` to `[batch, new time, filters]`.

    Raises:
        NotLowerableError: Another data format, strides with padding "same", whose amount
            depends on the length, or an input that was not cast to what it computes in.
    """
    dtype = layer.compute_dtype
    if inputs.dtype != dtype:
        raise NotLowerableError(f"computes in {dtype}, and its input is {inputs.dtype.name}")
    if layer.data_format != "channels_last":
        raise NotLowerableError(f"its data format is {layer.data_format}")
    (steps,), (stride,), (dilation,) = layer.kernel_size, layer.strides, layer.dilation_rate
    if layer.padding == "same" and stride != 1:
        raise NotLowerableError('strides with padding "same"')
    # [steps, channels / groups, filters] -> [filters, channels / groups, steps]
    kernel = tracer.read(lambda: layer.kernel, dtype).transpose(2, 1, 0)
    bias = tracer.read(lambda: layer.bias, dtype) if layer.use_bias else None
    reach = dilation * (steps - 1)
    pads = {"valid": [0, 0], "causal": [reach, 0], "same": [reach // 2, reach - reach // 2]}

    def emit(builder: GraphBuilder, names: Sequence[str], outputs: Sequence[str]) -> None:
        channels_first = builder.node("Transpose", [names[0]], perm=[0, 2, 1])
        weights = [builder.const("kernel", kernel)]
        if bias is not None:
            weights.append(builder.const("bias", bias))
        result = builder.node(
            "Conv",
            [channels_first, *weights],
            kernel_shape=[steps],
            strides=[stride],
            dilations=[dilation],
            group=layer.groups,
            pads=pads[padding],
        )
        builder.node("Transpose", [result], output=outputs[0], perm=[0, 2, 1])

    padding = layer.padding
    shape = layer.compute_output_shape(tuple(inputs.shape))
    (result,) = tracer.mark([inputs], [(dtype, list(shape))], emit)
    return result if layer.activation is None else layer.activation(result)
