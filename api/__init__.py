"""The words Headrace's parts share: objects, protobuf services, names, the byte plane's frames.

Owns every contract between two parts. Holds no logic of a part and does no I/O.
Invariant: parts import this package and never each other's inside (`.importlinter` holds it).
"""
