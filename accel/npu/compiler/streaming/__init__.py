"""Compile for external memory: everything comes from there in pieces, and goes back there.

    compile     layers -> a program's parts; begin here
    plan        how to bring one layer through memories that are smaller than it
    layer       one layer's slabs, tiles and jobs, as planned
    streamer    the transfers that they need, in the order in which they are asked for
    jobs        the steps of the jobs themselves
    rooms       the external memory as it fills, and the rooms on the chip
    order       steps and transfers -> one instruction stream

Tiles are those of the compiler (tile.py), only cut from a part of a layer.
"""
