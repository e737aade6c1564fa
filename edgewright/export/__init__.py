"""Write a model as the files that another product reads: `edgewright export`. Nothing of edgewright is needed to run them.

    model.py       the graph as one file, with its inputs and outputs; refuses what no consumer can score
    runtimes.py    the onnxruntime of each consumer, and the operator sets that it knows
    lowering.py    the graph for an older operator set, proven equal by running both
    consumers.py   the files of each consumer, from templates/
    cli.py         the command

Begin with consumers.py.
"""
