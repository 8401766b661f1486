"""An OpenAI-compatible server: `create_app(llm)` to mount it, `outpace serve` to run it."""

from outpace.server.app import create_app
from outpace.server.settings import ServerSettings

__all__ = ["ServerSettings", "create_app"]
