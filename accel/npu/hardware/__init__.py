"""Builds from the RTL in `rtl/`: simulations for this machine, bitstreams for boards.

    sources           the files of the RTL, and its parameters for a profile
    verilate          builds a shared library or a program that simulates the RTL
    boards            the supported boards and their clocks
    implementation    records of place and route, and whether they are stale
    bitstream         synthesis, place and route, packing
    cli               `edgewright npu bitstream`

The package machines runs programs on these builds.
"""
