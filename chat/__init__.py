"""What the product does, knowing no web library."""
