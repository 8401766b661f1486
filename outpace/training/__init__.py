"""Training of draft heads and draft models: the target's texts, its hidden states on disk, and one loop for all kinds. Needs torch."""
