"""The torch target: live transformers models."""
