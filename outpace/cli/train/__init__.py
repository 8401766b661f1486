"""The commands `outpace train ...`, one file per method."""
