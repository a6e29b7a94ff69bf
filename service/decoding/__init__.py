"""From bytes to pixels, in processes that can be ended."""
