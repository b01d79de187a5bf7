"""Object detection: boxes with classes in pictures."""
