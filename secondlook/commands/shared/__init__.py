"""What several commands share: options, rows of answers, how fits and novelty are told."""
