"""The client's side of Flower's Fleet API; sole user of Flower's private names here."""
