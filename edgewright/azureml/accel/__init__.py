"""Names of azureml.accel: networks for FPGA boards, their conversion, and the client of their services.

models/         featurizers and their weights, in a graph of TensorFlow 1
converter.py    a SavedModel -> a model that runs on the NPU
image.py        the configuration of a service of such a model
client.py       score with a service over gRPC
"""

from edgewright.azureml.accel.client import PredictionClient, client_from_service

__all__ = ["PredictionClient", "client_from_service"]
