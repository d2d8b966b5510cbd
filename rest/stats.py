"""GET /api/stats: the viewer's figures."""

from fastapi import APIRouter

from chat.stats import user_stats
from rest.bodies import Detail, StatsAnswer
from rest.deps import Served, Signed, ViewerRoute

router = APIRouter(route_class=ViewerRoute, tags=["stats"])


@router.get("/api/stats", responses={401: {"model": Detail}})
async def stats(viewer: Signed, services: Served) -> StatsAnswer:
    """Tokens are those of every run that the user ever caused."""
    figures = await user_stats(services.database, viewer.id)
    return StatsAnswer(
        total_conversations=figures.total_conversations,
        total_messages=figures.total_messages,
        total_tokens=figures.total_tokens,
        average_messages_per_conversation=figures.average_messages_per_conversation,
    )
