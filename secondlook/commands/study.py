"""``secondlook study``: all of its commands."""

from secondlook.commands.studies import of_bundles, of_networks, of_photos
from secondlook.commands.studies.group import study

__all__ = ["of_bundles", "of_networks", "of_photos", "study"]
