"""Diffusion on latents: the denoiser contract, the noise schedule, the sampler and guidance.

Knows tensors only: no files of a data set, no cases, no prompts.
"""
