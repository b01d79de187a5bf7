"""Training of torch modules, whatever the task."""
