"""Requests to batches and back: one thread computes."""
