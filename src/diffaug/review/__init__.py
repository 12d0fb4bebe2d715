"""A page in the browser in which people look at cases, decide about them, and tell painted frames from real ones."""
