"""mxint8: blocks of int8 numbers that share one exponent (OCP Microscaling Formats specification 1.0)."""
