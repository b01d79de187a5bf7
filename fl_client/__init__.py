"""The edge node: policy, egress guard, audit log, resident client."""
