"""The NPU: from a quantized graph to results, on NumPy integers, on the RTL or on a board.

The modules in this folder are the language that all packages share, in reading order:

    profile, arithmetic     the sizes of one NPU; every rounding
    isa, registers          the instructions of a program; the regions and registers that a host accesses
    geometry, depthwise     the vectors that an array pass visits; the kernels that the depthwise unit supports
    tensors, program        the layout of tensors in memory; the file format of a program

The packages, each with its own list:

    lowering    ONNX -> layers
    compiler    layers -> a program; streams layers that exceed the on-chip memories
    model       result and run time of a program: checks, the functional model, the cycle model
    hardware    builds from the RTL: simulations and bitstreams
    link        the protocol of a board on a serial line
    machines    execution of a program: the RTL simulator, a board, or a board with the functional model as fallback

cli.py is `edgewright npu`; program_source.py loads the programs that it works on. Imports point down only, and compiler and
machines do not import each other, so the code that runs beside a board needs no ONNX (docs/adr/0012). `rtl/` and
`constraints/` hold the sources of the hardware.
"""
