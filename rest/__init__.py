"""The documented contract: REST routes and the legacy socket, thin."""
