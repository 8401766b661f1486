"""outpace makes a language model answer faster without changing one token of its answer."""

__version__ = "0.1.0"
