"""Online: HTTP, batching, admin jobs and the web page. Imports no torch."""

from typing import TYPE_CHECKING, Any

from secondlook.service.settings import Settings

if TYPE_CHECKING:
    from secondlook.service.app import create_app

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the parent of workers needs none of it, and is 80 MB smaller without.
    if name == "create_app":
        from secondlook.service.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
