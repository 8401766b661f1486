"""Medusa heads: weights, other tools' layouts, one file per backend."""
