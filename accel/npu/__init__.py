"""The NPU: instruction set, compiler, functional model, cycle model, RTL, and the simulated board."""
