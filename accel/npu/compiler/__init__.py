"""From layers to a program for one machine.

    compile      the steps in order, and the choice of the tiles' size; begin here
    fold         inputs of few channels, so that the array's columns are used
    place        every tensor in the activation memory
    tile         layers -> jobs that fit the buffers
    schedule     jobs -> instructions
    streaming    the same for what does not fit the chip, through its external memory
    epcontext    the ONNX graph in which the program stands for what it computes

Which operators run is lowering's decision; whether a program is right, and how long it takes, is told by the model.
"""
