"""Training of a feature-level head (EAGLE)."""
