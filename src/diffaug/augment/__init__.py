"""Synthetic cases and painting inside other people's training code. Nothing imports it; it imports torch and MONAI."""
