"""Painting in memory: a layout, its windows, the slots, and what is blended back. Reads and writes no file."""
