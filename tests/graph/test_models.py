from __future__ import annotations

from pathlib import Path

import httpx

from tests.conftest import StartServer
from tests.graph.http_client import Graph

MODELS = "{ models { id provider available unavailableReason contextWindow default } }"


async def test_anyone_may_see_what_can_be_asked_for(anonymous: Graph, viewer: Graph) -> None:
    models = (await anonymous.data(MODELS))["models"]
    assert [model for model in models if model["available"]] == [
        {
            "id": "scripted",
            "provider": "scripted",
            "available": True,
            "unavailableReason": None,
            "contextWindow": 8192,
            "default": True,
        }
    ]
    assert models[0]["default"]
    assert (await viewer.data(MODELS))["models"] == models


async def test_a_model_that_needs_a_key_names_the_variable(viewer: Graph) -> None:
    models = (await viewer.data(MODELS))["models"]
    closed = [model for model in models if model["provider"] == "openai"]
    assert closed
    for model in closed:
        assert model["unavailableReason"] == "Set OPENAI_API_KEY to use it"
        assert not model["default"]


async def test_a_model_that_cannot_answer_says_why(start_server: StartServer, tmp_path: Path) -> None:
    """Without its file, and not allowed to fetch it."""
    server = start_server(
        EMBEDDED_MODEL="true", EMBEDDED_FETCH="false", MODELS_DIR=str(tmp_path / "empty"), SCRIPTED_MODEL="false"
    )
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        model = (await Graph(http).data(MODELS))["models"][0]
    assert not model["available"]
    assert model["default"]
    reason = model["unavailableReason"]
    assert reason
    assert "\n" not in reason
