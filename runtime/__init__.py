"""Runs ONNX files whose manifest names their states."""
