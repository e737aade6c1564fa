"""The model-independent part of a scoring server: read a request within limits, check its key, answer, drain."""
