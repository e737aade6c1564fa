"""edgewright: take a trained model to a fleet of edge devices."""

__version__ = "0.1.0"
