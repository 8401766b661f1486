"""Trained draft heads: their format on disk, the model they belong to, and how each backend runs them."""
