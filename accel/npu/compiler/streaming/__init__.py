"""Compile for external memory: everything comes from there in pieces, and goes back there.

    compile     layers -> a program's parts; begin here
    groups      which layers go through the chip together
    plan        how to bring one layer through memories that are smaller than it: all the ways that fit
    layer       one layer's slabs, each with the fastest of these plans
    slab        the tiles and jobs of a slab, as planned
    rows        how to bring a chain of layers through row by row, so that what lies between them stays on the chip
    chain       the jobs of a chain, as planned
    trial       what work takes in a machine that does nothing else
    streamer    the transfers that all of these need, in the order in which they are asked for
    jobs        the steps of the jobs themselves
    rooms       the external memory as it fills, and the rooms on the chip
    order       steps and transfers -> one instruction stream

Tiles are those of the compiler (tile.py), only cut from a part of a layer.
"""
