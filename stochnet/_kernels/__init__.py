"""The border between Python and the C engine.

One module for one C file. A function here checks what C cannot (types, shapes,
bounds), then calls the kernel of the instruction set in use; it computes nothing.
"""
