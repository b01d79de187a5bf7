"""Where a run's sites are: in this process, on Ray, or on the network."""
