"""Splits of a folder (until the branch of the datasets is merged)."""

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
