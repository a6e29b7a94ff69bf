"""Online: HTTP, batching, admin jobs and the web page. Imports no torch."""

from service.app import create_app
from service.settings import Settings

__all__ = ["Settings", "create_app"]
