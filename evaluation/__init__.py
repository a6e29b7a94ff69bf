"""How good it is: errors, calibration, benchmarks."""
