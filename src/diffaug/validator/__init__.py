"""The latent segmentation network, its calibration, and the gate that uses both while a sample is being made."""
