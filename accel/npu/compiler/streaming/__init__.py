"""Compile networks that do not fit on the chip: external memory stores weights, tensors and the program.

    compile     layers -> the parts of a program; begin here
    groups      partition of the layers: single layers, and chains that run row by row
    plan        candidate plans to process a layer in memories that are smaller than the layer
    layer       the slabs of one layer, each with the fastest plan
    slab        the tiles and jobs of a slab, from its plan
    rows        plans for chains of layers that run row by row, with intermediate tensors on the chip
    chain       the jobs of a chain, from its plan
    trial       run time of work without other work in parallel, from the cycle model
    streamer    the transfers of slabs and chains, in order of request
    jobs        the instructions of the jobs
    buffers     the constants in external memory, and ring buffers on the chip
    order       instructions and transfers -> one instruction stream

Tiles are cut by the same code as on the chip (tile.py), from a part of a layer.
"""
