"""How real painted lesions look: an ImageNet encoder, features of windows, a critic that readers have taught."""
