"""Training data: texts, the model's own answers, captured hidden states."""
