"""Tuning: find the fastest drafter for given prompts on this machine, with its speedup and a confidence interval."""
