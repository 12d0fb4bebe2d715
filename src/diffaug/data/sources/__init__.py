"""Readers of published data sets: each turns one layout into the folder format."""
