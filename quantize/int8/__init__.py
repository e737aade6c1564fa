"""int8 with QuantizeLinear and DequantizeLinear nodes: int8.py lists the steps, the other modules are one step each."""
