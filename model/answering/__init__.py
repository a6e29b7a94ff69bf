"""From pixels to an answer: encode, search, vote, mix; and how far to trust it."""
