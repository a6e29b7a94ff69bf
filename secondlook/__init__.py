"""The ``secondlook`` command, above all rooms."""
