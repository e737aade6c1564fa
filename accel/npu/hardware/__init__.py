"""What is built from the RTL in `rtl/`: simulations for this machine, bitstreams for boards.

    sources           the RTL's files, and the parameters that make them one profile's machine
    verilate          a library or a program that simulates them
    boards            the boards that bitstreams can be built for, and their clocks
    implementation    what place and route said about a build, and whether it still holds
    bitstream         synthesis, place and route, packing
    cli               `edgewright npu bitstream`

Nothing here runs a program; machines does, on what is built here.
"""
