"""What a change of the schema would break for the clients written against the old one."""

from graphql import build_schema, find_breaking_changes


def breaking_changes(old: str, new: str) -> list[str]:
    """One line for each breaking change between two schema texts."""
    return [change.description for change in find_breaking_changes(build_schema(old), build_schema(new))]
