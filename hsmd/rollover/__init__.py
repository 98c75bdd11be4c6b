"""Rollover of a CA key under a running fleet: topology, plan, and the model that plans are searched against. Pure.

docs/rollover.md. Nothing here does I/O or reads a clock: the same topology gives the same plan, byte by byte.
"""
