"""What is learned: one adapter per task, exact metrics, data sets."""
