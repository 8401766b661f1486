"""The form of pictures of a terminal: rich's, without its fonts from the network. A picture loads nothing from elsewhere."""

from __future__ import annotations

import re

from rich._export_format import CONSOLE_SVG_FORMAT

TERMINAL_SVG = re.sub(r"\n    @font-face \{\{.*?\n    \}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
