"""Training of mask tokens."""
