"""Read TensorFlow Lite files.

file.py          the flatbuffer as frozen dataclasses
reader.py        operator by operator; read this first
call.py          one operator with its tensors, and the helpers that every rule uses
rules.py         the table of all rules
arithmetic.py, convolutions.py, images.py, matrices.py, shapes.py, slices.py     the rules
interpreter.py   the source in TensorFlow Lite's own interpreter
"""
