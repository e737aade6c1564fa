"""Schemes for the NPU: int8.py and mxint8.py, with its rounding (functional.py) and its accumulators (overflow_guard.py)."""
