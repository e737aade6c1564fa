"""Compile layers to a program for one NPU.

    partition    the layers that fit the NPU and are worth the transfers; begin here
    compile      the steps in order, and the choice of the tile size
    fold         inputs with few channels, so that they use the array's columns
    place        memory allocation of tensors
    tile         layers -> jobs that fit the buffers
    schedule     jobs -> instructions
    streaming    networks that do not fit on the chip, with its external memory
    host_part    the operators and constants that stay on the host, as graphs
    epcontext    the ONNX graph with the program's segments as nodes

lowering/ decides which operators run on the NPU; model/ checks a program and computes its run time.
"""
