"""What several commands share: options, a bundle with images to measure it on, what a fit came to in words."""
