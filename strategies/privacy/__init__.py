"""Central and local differential privacy, and secure aggregation: the maths and what travels."""
