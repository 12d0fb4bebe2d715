"""Latent inpainting models: compact and Stable Diffusion behind one protocol, their files and low-rank updates."""
