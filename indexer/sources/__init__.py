"""Networks as the sources of encoders: any network as it is, and the CIFAR family by PyTorch."""
