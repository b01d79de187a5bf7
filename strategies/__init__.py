"""How rounds are combined: each strategy's server half and client half in one file."""
