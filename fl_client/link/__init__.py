"""The client's side of Flower's Fleet API, on names of Flower that it does not promise to keep."""
