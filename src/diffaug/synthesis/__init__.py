"""Requests become cases: windows, the slot engine, shards."""
