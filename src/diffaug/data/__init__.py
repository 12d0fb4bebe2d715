"""Cases on disk: the folder format, splits by group, duplicates, public sources, phantoms, inspection."""
