"""Networks, key recipes, the encoder made of both, and the engines that run it."""
