"""The viewers of the GraphQL tests are good enough to attack, too."""

from tests.graph.conftest import anonymous, stranger, stranger_account, viewer, viewer_account

__all__ = ["anonymous", "stranger", "stranger_account", "viewer", "viewer_account"]
