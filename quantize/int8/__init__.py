"""int8 with QuantizeLinear and DequantizeLinear nodes: int8.py lists the steps, the other modules have one step each.

mixed_precision.py keeps some layers in float; openvino.py quantizes with NNCF instead.
"""
