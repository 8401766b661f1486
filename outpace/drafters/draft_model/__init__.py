"""A smaller model as the drafter, and the mapping between two vocabularies."""
