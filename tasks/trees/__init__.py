"""Boosters as data: what a booster is on the wire, and its checks."""
