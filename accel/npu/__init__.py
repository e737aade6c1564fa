"""The NPU: from a quantized graph to an answer, on NumPy integers, on the RTL, or on a board.

The modules right here are the language that all packages speak, in reading order:

    profile, arithmetic     one machine's sizes; every rounding
    isa, registers          what a program and a host can say to it
    geometry, depthwise     what an instruction of the array visits, and what the depthwise unit takes in one pass
    tensors, program        how tensors lie in its memories; the file that carries a program

The packages, each with its own list:

    lowering    ONNX -> layers
    compiler    layers -> a program; what does not fit the chip is streamed
    model       what a program does and how long it takes: checks, the functional model, the cycle model
    hardware    what is built from the RTL: simulations and bitstreams
    link        speaking with a board over a serial line
    machines    what runs a program: the RTL, a board, or whichever answers

cli.py is `edgewright npu`. Imports point down only, and the compiler and the machines know nothing of one another, so what runs
beside a board needs no ONNX (docs/adr/0012). `rtl/` and `constraints/` hold the hardware's own sources.
"""
