"""Adversarial images and input Jacobians of the three models; needs PyTorch."""
