"""Trained helpers: how they lie on disk, which model they belong to, and how their heads are run."""
