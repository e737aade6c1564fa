"""Schemes for the NPU: int8 and mxint8 with the rounding and the limits of its accumulators."""
