"""Medusa heads (2401.10774): weights, the layouts of other tools, and one file per backend."""
