"""Image classification: one class for each picture."""
