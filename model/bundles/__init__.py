"""Bundles: one immutable folder a generation, below a root that names the active one."""
