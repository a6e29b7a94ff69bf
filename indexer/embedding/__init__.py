"""From images to keys: decoding and encoding in batches."""
