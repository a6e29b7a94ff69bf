"""Which generation answers: opened, rebuilt, accepted, switched, kept calibrated."""
