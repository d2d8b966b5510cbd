import orjson
import pytest

from providers.base import ModelInfo
from providers.failures import Garbled
from providers.openai_models import chat_models, listed_models
from providers.vendors import OPENAI


def listing(*entries: object) -> bytes:
    return orjson.dumps({"object": "list", "data": entries})


@pytest.mark.parametrize(
    ("entry", "window"),
    [
        ({"id": "a", "object": "model", "created": 1, "owned_by": "o"}, None),
        ({"id": "a", "context_length": 131072, "top_provider": {"context_length": 1}}, 131_072),  # OpenRouter
        ({"id": "a", "context_window": 8192}, 8192),  # Groq
        ({"id": "a", "max_model_len": 4096, "root": "a", "permission": []}, 4096),  # vLLM
        ({"id": "a", "max_context_length": 32768}, 32_768),  # Mistral
        ({"id": "a", "meta": {"n_ctx": 2048, "n_ctx_train": 131072}}, 2048),  # llama.cpp
        ({"id": "a", "context_length": -1, "meta": None}, None),
        ({"id": "a", "context_length": 10**12}, None),
        ({"id": "a", "context_length": "8k", "max_model_len": True}, None),
    ],
)
def test_every_server_has_its_own_word_for_the_window(entry: dict[str, object], window: int | None) -> None:
    assert listed_models(listing(entry), "s") == [ModelInfo("a", "s", window)]


def test_entries_that_are_no_models_are_left_out() -> None:
    found = listed_models(listing({"id": "a"}, {"id": 3}, "b", None, {"name": "c"}, {"id": "d"}), "s")
    assert [model.id for model in found] == ["a", "d"]
    assert [model.id for model in listed_models(orjson.dumps([{"id": "a"}]), "s")] == ["a"], "Together's has no data"


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"3", b"null", b'{"data": 3}', b'{"models": []}'])
def test_what_is_no_list_is_garbled(body: bytes) -> None:
    with pytest.raises(Garbled):
        listed_models(body, "s")


def test_of_openai_s_models_those_that_chat_are_shown_the_well_known_first() -> None:
    names = [
        "text-embedding-3-large",
        "gpt-4o-2024-08-06",
        "gpt-4o",
        "whisper-1",
        "gpt-realtime",
        "gpt-4o-mini-tts",
        "dall-e-3",
        "o3-pro",
        "gpt-image-1",
        "gpt-3.5-turbo-instruct",
        "gpt-5.1-codex",
        OPENAI.known[1],
        "o3",
        "davinci-002",
        OPENAI.known[0],
    ]
    shown = [model.id for model in chat_models(ModelInfo(name, "openai", None) for name in names)]
    assert shown == [OPENAI.known[0], OPENAI.known[1], "gpt-4o", "o3", "gpt-4o-2024-08-06"]
