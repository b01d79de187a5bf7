"""What leaves a site: the guard round every reply, and the log of it."""
