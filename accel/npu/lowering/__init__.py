"""Lower a quantized ONNX graph to NPU layers.

    layers          the two kinds of layer
    qdq             reads a quantized graph
    microscaling    block-scaled weights in the form that the array executes
    operators       the arithmetic of single operators
    inputs          preprocessing of inputs on the host
    coverage        one row of the coverage report
    lower           walks the graph and assigns every operator to the NPU or the host, with the reason

Layers are independent of the profile and of memory addresses; only Concat depends on the number of channels in a vector.
"""
