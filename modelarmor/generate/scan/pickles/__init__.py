"""Pickles: what a stream of opcodes would import and call, told without doing it."""
