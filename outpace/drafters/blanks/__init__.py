"""Blanks: the drafter that predicts from mask tokens, and the kinds of mask tokens."""
