"""Keras models to ONNX files with explicit state."""
