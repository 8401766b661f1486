"""Tuning: which way of guessing pays on these prompts and this machine, how much, and how sure that is."""
