"""HTTP to the embedded model's child, on this machine only."""

import ssl

import httpx

HEALTH_TIMEOUT = 5.0  # seconds


def loopback_client() -> httpx.AsyncClient:
    """A client that no proxy setting can lead elsewhere. Its empty TLS context saves the 20 ms of loading
    certificates that plain HTTP never reads."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
    transport = httpx.AsyncHTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), limits=limits)
    return httpx.AsyncClient(transport=transport, trust_env=False)


async def healthy(client: httpx.AsyncClient, base_url: str) -> bool:
    """Whether the child answers. It does while it decodes: another thread of it listens."""
    try:
        response = await client.get(f"{base_url}/health", timeout=HEALTH_TIMEOUT)
    except httpx.HTTPError:
        return False
    return response.status_code == 200
