"""Training of helpers: texts of the target, its hidden states on disk, and one loop for all kinds. Needs torch."""
