"""What things cost: every figure of one run on one machine, as ratios; plots of them."""
