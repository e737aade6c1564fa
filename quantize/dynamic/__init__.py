"""int8-dynamic: int8 weights, and activations that are quantized during inference with the range of each tensor.

dynamic.py     the steps: read this first
rounding.py    int8 weights whose products no processor saturates
smoothing.py   factors that move large channels of an activation into the weights
products.py    MatMul and Gemm with integers
recurrent.py   LSTM with integers
"""
