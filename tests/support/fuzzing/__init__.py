"""Hostile HTTP: a corpus of raw requests, a mutator, a strict reference parser, and the client that sends and judges.

Used by `tests/fuzz` with small counts and by `scripts/fuzz` with large ones.
"""
