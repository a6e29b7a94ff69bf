"""What the classifier is: networks, encoder, cache maths, stores, bundles. Importing it needs no torch."""
