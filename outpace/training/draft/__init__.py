"""Distillation of a draft model."""
