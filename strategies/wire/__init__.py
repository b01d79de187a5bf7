"""The format that both sides share: sole owner of every name on the wire."""
