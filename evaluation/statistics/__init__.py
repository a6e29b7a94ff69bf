"""How sure a figure is and what it is worth: intervals, detection, calibration, sets of labels."""
