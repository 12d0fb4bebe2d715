"""Synthetic and real cases in the formats of other libraries. It only reads files, and nothing but `cli` imports it."""
