"""Names of azureml.accel: the client of services on FPGA boards; its networks, converter and images have no counterpart yet."""

from edgewright.azureml.accel.client import PredictionClient, client_from_service

__all__ = ["PredictionClient", "client_from_service"]
