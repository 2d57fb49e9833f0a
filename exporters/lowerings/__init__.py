"""One file a layer type: how it becomes standard ONNX nodes."""
