"""How rounds are combined: each strategy's server update and client update in one file."""
