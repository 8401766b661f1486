"""The torch target: live models of transformers."""
