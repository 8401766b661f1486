"""Counting of a successor table."""
