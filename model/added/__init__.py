"""Entries that were added to a generation since it was built: the journal's changes laid over it."""
