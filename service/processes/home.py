"""A server that was started by hand with no folder for bundles: it keeps them in its user's home, and can be taught.

"By hand" is told by the address alone: only programs of this machine reach loopback (docs/decisions/020). Whoever has
the key opens it, which is made the first time and shown as a part of the page's address: behind the #, no browser sends
it to any server. A server that others reach keeps to the default bundle, which is read-only, and has no key.
"""

from __future__ import annotations

import logging
import sys
from typing import NamedTuple

from pydantic import SecretStr

from secondlook.model.bundles.default import seed
from secondlook.model.bundles.home import KEY, bundles_home, local_key, made_home
from secondlook.model.errors import BundleError, HomeError
from secondlook.service.http.hosts import is_loopback
from secondlook.service.settings import PREFIX, Settings
from secondlook.service.shortage import causes

logger = logging.getLogger(__name__)

DEFAULT = "default"
"""The root in the user's home of servers for which nobody named one."""


class AtHome(NamedTuple):
    """What a server was told, and what it finds in its user's home for what it was not."""

    settings: Settings
    shows_key: bool
    """Whether the admin key was made here, so that whoever started the server is told it."""


def at_home(settings: Settings) -> AtHome:
    """The settings, with bundles in the user's home and a key made there where none are named and it starts by hand.

    The log says where they are, or why the server cannot be taught: then the default bundle answers.

    Raises:
        BundleError: what is in the home is damaged.
    """
    if settings.bundles is not None or settings.milvus is not None or not is_loopback(settings.host):
        return AtHome(settings, shows_key=False)
    try:
        root = made_home() / DEFAULT
        seed(root)
    except (HomeError, BundleError) as error:
        if isinstance(error, BundleError) and not any(isinstance(cause, OSError) for cause in causes(error)):
            raise
        until = f"until that is mended, or {PREFIX}BUNDLES and {PREFIX}ADMIN_KEY are set"
        logger.warning("this server cannot be taught %s: %s", until, error)
        return AtHome(settings, shows_key=False)
    logger.info("bundles, and what is taught to them, are in %s", root)
    settings = settings.model_copy(update={"bundles": root})
    if settings.admin_key is not None or settings.keys_file is not None:
        return AtHome(settings, shows_key=False)
    try:
        key = local_key()
    except HomeError as error:
        logger.warning("this server cannot be taught: %s", error)
        return AtHome(settings, shows_key=False)
    logger.info("the key that it is taught with is in %s", bundles_home() / KEY)
    return AtHome(settings.model_copy(update={"admin_key": SecretStr(key)}), shows_key=True)


def page(address: str, settings: Settings, *, shows_key: bool) -> str:
    """The page's address, with the key in its fragment where whoever started the server is to have it.

    A log that programs read has no key in it.
    """
    if not shows_key or settings.admin_key is None or (settings.log == "json" and not sys.stderr.isatty()):
        return address
    return f"{address}#key={settings.admin_key.get_secret_value()}"


def announce(settings: Settings, address: str, *, shows_key: bool = False) -> None:
    """Say where the page is."""
    shown, several = page(address, settings, shows_key=shows_key), settings.workers > 1
    how = f"{settings.workers} workers; " if several else ""
    logger.info("secondlook is ready: %s (%sstop it with Ctrl-C)", shown, how)
