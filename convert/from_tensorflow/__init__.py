"""TensorFlow SavedModels and frozen graphs to ONNX; runner.py converts in a process with limits."""
