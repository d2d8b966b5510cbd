"""Which providers of identities the settings open."""

from auth.github import GitHub
from auth.google import Google
from auth.oauth_client import Application, Provider
from settings import Settings


def named(settings: Settings) -> dict[str, Provider]:
    """By the name that stands in their routes."""
    found: dict[str, Provider] = {}
    if settings.google_client_id and settings.google_client_secret:
        google = Application(settings.google_client_id, settings.google_client_secret.get_secret_value())
        found[Google.name] = Google(google, settings.google_issuer_url)
    if settings.github_client_id and settings.github_client_secret:
        github = Application(settings.github_client_id, settings.github_client_secret.get_secret_value())
        found[GitHub.name] = GitHub(github, settings.github_url, settings.github_api_url)
    return found
