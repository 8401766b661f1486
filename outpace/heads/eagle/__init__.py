"""The feature-level head (EAGLE, 2401.15077): weights, caches, draft trees, and one file per backend."""
