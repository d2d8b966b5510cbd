"""Where models run: one port, an adapter each."""
