"""The long description of the package: the README, whose relative links lead nowhere outside the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")
HIDDEN = re.compile(r"<!--.*?-->\n*", re.DOTALL)


def absolute(text: str, repository: str) -> str:
    """The text with its relative links made absolute: links to `repository`/blob/main, pictures to `repository`/raw/main. Without a
    repository only their words are left."""

    def replaced(match: re.Match[str]) -> str:
        mark, words, path = match.groups()
        if not repository:
            return words
        return f"{mark}[{words}]({repository}/{'raw' if mark else 'blob'}/main/{path})"

    return LINK.sub(replaced, HIDDEN.sub("", text))


class ReadmeHook(MetadataHookInterface):
    """Sets the dynamic field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill it in from README.md; the repository is `Source` in [project.urls], if it is there."""
        repository = metadata.get("urls", {}).get("Source", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, repository)}
