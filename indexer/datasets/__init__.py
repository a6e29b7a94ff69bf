"""Labelled image sets: what is taken from folders and published batches, and what is left out."""
