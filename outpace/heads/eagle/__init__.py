"""The feature-level head (EAGLE): weights, caches, draft trees, one file per backend."""
