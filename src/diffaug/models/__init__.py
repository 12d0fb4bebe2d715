"""The one latent inpainting model and the compact configurations of its parts."""
