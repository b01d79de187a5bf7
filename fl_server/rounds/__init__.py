"""The round loop and how one phase of a round reaches the sites."""
