"""What is fitted on the holdout: theta, lam, k, search settings, and doubt."""
