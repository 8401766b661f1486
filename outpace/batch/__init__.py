"""Offline batches: files of prompts in, files of answers out, resumable, with exactly one answer per line."""
