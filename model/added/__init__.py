"""Added entries laid over a generation, and kept up with the journal."""
