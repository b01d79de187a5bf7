"""The site's own word: its file, and what it allows."""
