"""From a model's name to a target and a tokenizer."""
