"""GGUF files of the Llama family, read without torch and transformers: `convert` makes of one what models/convert.py makes of a folder."""
