"""One site's data: how it is cut into sites and splits."""
