"""Where GraphQL is reached: /graphql by HTTP and by WebSocket, GraphiQL for browsers that open it."""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from graph import http, websocket
from graph.execution import Runner
from graph.pages import graphiql_assets, graphiql_page
from graph.schema import core_schema
from graph.shape import QueryLimits

PATH = "/graphql"


def mount(app: FastAPI, dist: Path, limits: QueryLimits) -> None:
    """Add the routes. `dist` holds the built GraphiQL; `limits` bound one document. The services are found in
    `app.state.services` once the lifespan has begun."""
    runner = Runner(core_schema(), limits)

    async def over_http(request: Request) -> Response:
        if request.method == "GET" and "text/html" in http.accepted_types(request.headers.get("accept")):
            return graphiql_page(dist)
        return await http.handle(request, runner, request.app.state.services)

    async def over_websocket(socket: WebSocket) -> None:
        await websocket.serve(socket, runner, socket.app.state.services)

    app.add_route(PATH, over_http, methods=["GET", "POST"], include_in_schema=False)
    app.router.routes.append(WebSocketRoute(PATH, over_websocket))
    app.mount("/graphiql", graphiql_assets(dist), name="graphiql")
