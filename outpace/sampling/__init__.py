"""From logits to a token: processors, grammars and the sampler."""
