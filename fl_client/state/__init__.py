"""What a site remembers between rounds."""
