"""Machines: everything that runs a program, with the same bits as result.

    host               the protocol of a machine; a session quantizes inputs, executes, and dequantizes outputs, by segment
    host_parts         the parts of a network on the host, on onnxruntime
    port               an NPU in hardware or RTL, accessed through a port: words in regions
    rtl_simulator      the RTL, as a library in this process
    board              a board on a serial line
    simulated_board    the RTL with its serial line, as a process that behaves like a board
    failover           a board while it answers, otherwise the functional model

The functional model is a machine too (`model/functional_model.py`). This package does not compile, so the code that runs beside
a board needs no ONNX.
"""
