"""Draft trees, and the batch of trees that one forward pass runs."""
