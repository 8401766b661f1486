"""Mask tokens as placeholders for unknown tokens: the drafter, and the kinds of mask tokens."""
