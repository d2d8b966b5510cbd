import pytest

from providers.base import GenerationRequest, Role, Turn
from providers.openai_body import MAX_WORDS, Quirk, another_way, completion_body, first_guess

REQUEST = GenerationRequest("m", (Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "Hi")), 0.5, 100)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
NONE: frozenset[Quirk] = frozenset()
USAGE = {"include_usage": True}


@pytest.mark.parametrize(
    ("quirks", "more"),
    [
        (NONE, {"temperature": 0.5, "max_completion_tokens": 100, "stream_options": USAGE}),
        ({Quirk.OLD_LIMIT}, {"temperature": 0.5, "max_tokens": 100, "stream_options": USAGE}),
        ({Quirk.NO_USAGE}, {"temperature": 0.5, "max_completion_tokens": 100}),
        ({Quirk.OWN_TEMPERATURE}, {"max_completion_tokens": 500, "stream_options": USAGE}),
    ],
)
def test_what_is_asked(quirks: frozenset[Quirk], more: dict[str, object]) -> None:
    assert completion_body(REQUEST, quirks) == {"model": "m", "messages": MESSAGES, "stream": True, **more}


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("gpt-3.5-turbo", False),
        ("gpt-4o-2024-08-06", False),
        ("gpt-4.1-mini", False),
        ("gpt-5", True),
        ("gpt-5-mini", True),
        ("gpt-5-2025-08-07", True),
        ("gpt-5-chat-latest", True),
        ("gpt-5.2", False),
        ("gpt-5.2-chat-latest", True),
        ("o1", True),
        ("o4-mini-2025-04-16", True),
    ],
)
def test_openai_s_models_that_think_have_a_temperature_of_their_own(model: str, own: bool) -> None:
    assert first_guess(model, of_openai=True) == ({Quirk.OWN_TEMPERATURE} if own else NONE)


def test_other_servers_know_the_old_limit_whatever_they_call_their_models() -> None:
    assert first_guess("o1", of_openai=False) == {Quirk.OLD_LIMIT}


# As OpenAI, Mistral, vLLM and Azure said it.
TEMPERATURE = "{'message': \"Unsupported value: 'temperature' does not support 0.5 with this model.\", 'param': 'temp'}"
LIMIT = (
    "{'message': \"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'\"}"
)
OPTIONS = "{'detail': [{'type': 'extra_forbidden', 'loc': ['body', 'stream_options', 'include_usage']}]}"
NOTHING = "{'message': 'Bad request'}"


@pytest.mark.parametrize(
    ("words", "tried", "then"),
    [
        (TEMPERATURE, NONE, {Quirk.OWN_TEMPERATURE}),
        (LIMIT, {Quirk.OLD_LIMIT}, NONE),
        (LIMIT, NONE, {Quirk.OLD_LIMIT}),
        (OPTIONS, NONE, {Quirk.NO_USAGE}),
        (NOTHING, NONE, {Quirk.NO_USAGE}),
    ],
)
def test_a_refusal_that_names_what_we_asked_for_is_asked_without_it(
    words: str, tried: frozenset[Quirk], then: frozenset[Quirk]
) -> None:
    assert another_way(words, tried, tried, takes_usage=False) == then


def test_a_server_that_takes_stream_options_is_not_suspected_of_refusing_them() -> None:
    assert another_way(NOTHING, NONE, NONE, takes_usage=True) is None


@pytest.mark.parametrize("words", [TEMPERATURE + LIMIT + OPTIONS, NOTHING, "", "temperature " * 9000, "x" * 9000])
@pytest.mark.parametrize("known", [NONE, frozenset({Quirk.OLD_LIMIT}), frozenset(Quirk)])
def test_asking_again_ends(words: str, known: frozenset[Quirk]) -> None:
    tried: frozenset[Quirk] | None = known
    seen = []
    while tried is not None:
        assert tried not in seen
        seen.append(tried)
        tried = another_way(words, tried, known, takes_usage=False)
    assert len(seen) <= len(Quirk) + 1


def test_only_the_beginning_of_a_refusal_is_looked_at() -> None:
    assert another_way("x" * MAX_WORDS + "temperature", NONE, NONE, takes_usage=True) is None
