"""A drop-in for `model.generate` of transformers: the same tokens from a live model, with any drafter (docs/transformers.md).

>>> from outpace.transformers import generate
>>> output_ids = generate(model, **inputs, max_new_tokens=100)  # doctest: +SKIP
"""

from outpace.transformers.drop_in import generate

__all__ = ["generate"]
