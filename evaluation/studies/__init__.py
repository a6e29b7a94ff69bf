"""Studies: each answers one question about a cache, on real images. ``secondlook study NAME`` runs one."""
