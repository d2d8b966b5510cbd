"""GET / and GET /health: what this is, and whether it works."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request

from chat.stats import sockets_elsewhere
from rest.bodies import Health
from rest.deps import OpenRoute, Served

router = APIRouter(route_class=OpenRoute, tags=["home"])


@router.get("/")
async def home(request: Request) -> dict[str, str | dict[str, str]]:
    """Where everything is."""
    return {
        "name": "AI Chat Studio API",
        "version": str(request.app.version),
        "status": "running",
        "endpoints": {
            "auth": "/api/auth",
            "chat": "/api/chat",
            "conversations": "/api/conversations",
            "websocket": "/ws",
            "docs": "/docs",
            "graphql": "/graphql",
        },
    }


@router.get("/health")
async def health(services: Served) -> Health:
    """`timestamp` in UTC with milliseconds; `active_connections` counts open sockets, legacy and GraphQL, of all
    workers: those of others as of their last heartbeat, a quarter of LEASE_SECONDS ago at most. Users and
    conversations are exact up to 20,000 of both; where there are more, some seconds old."""
    users, conversations = await services.totals.read()
    elsewhere = await sockets_elsewhere(services.database, services.engine.keeper.worker)
    return Health(
        status="healthy" if services.engine.storing else "degraded",
        timestamp=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        active_connections=services.presence.open + elsewhere,
        total_users=users,
        total_conversations=conversations,
    )
