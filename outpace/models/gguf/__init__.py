"""Reader for GGUF files of the Llama family, without torch or transformers. `convert` writes the same output as models/convert.py."""
