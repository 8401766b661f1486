"""Training data: texts, the model's own answers, and captured hidden states."""
