"""Bundles: one immutable folder for each generation, below a root that names the active one."""
