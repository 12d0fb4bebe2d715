"""Every stage from one config."""
