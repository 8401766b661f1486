"""How many tokens to draft: a fixed number, or what measured costs and confidences say."""
