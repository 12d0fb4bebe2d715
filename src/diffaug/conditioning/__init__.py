"""What to paint and where: attributes, prompts, masks, placements and the requests made of them."""
