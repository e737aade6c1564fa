"""What runs a program, and what a caller needs to run one: the same bits, whichever machine it is.

    host               what a machine is; a session quantizes inputs, has it run, and reads the outputs back
    port               a real NPU behind a port: words in regions
    rtl_simulator           the RTL, as a library in this process
    board              a board on a serial line
    simulated_board    the RTL with its serial line, as a process that looks like a board
    failover           a board while one answers, the functional model while none does

The functional model is a machine too (`model/functional_model.py`). Nothing here compiles, so a device needs no ONNX.
"""
