import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.prompt import ANSWER_SHARE, PER_TURN, estimate_tokens, estimate_turns, trim
from providers.base import Role, Turn

MEASURED = {
    "English": (
        137,
        "It was a bright cold day in April, and the clocks were striking thirteen. He had been walking for hours "
        "through streets he did not know, and when at last he came to the river he sat down on a bench and watched the "
        "boats go by. Nobody spoke to him. The evening light lay on the water, and somewhere behind the warehouses a "
        "bell was ringing. He thought of the letter in his pocket, of what it had said and of what it had left out, "
        "and he decided that he would answer it tomorrow, or perhaps not at all. There are days that ask nothing of "
        "you, his grandmother used to say, and you should be grateful for each of them.",
    ),
    "JSON": (
        254,
        '{"id": "conv_123", "title": "x", "messages": [{"id": "1", "role": "user", "timestamp": 1697467200000}], '
        '"createdAt": 1697467200000, "model": "gpt-3.5-turbo"}' * 3,
    ),
    "Chinese": (
        299,
        "天下大势，分久必合，合久必分。春天来了，小河里的冰融化了，孩子们在岸边放风筝。他想起了很多年以前的那个夏天，"
        "外婆坐在院子里的树下，给他讲月亮上的故事。人工智能正在改变我们的生活方式，从医疗到教育，从交通到娱乐，"
        "几乎每一个领域都受到了影响。然而，技术的发展也带来了新的问题：隐私、就业和公平。我们应该如何面对这些挑战？"
        "这需要全社会共同思考和努力。",
    ),
    "traditional Chinese": (
        107,
        "臺灣的夏天總是炎熱而潮濕，傍晚時分常有雷陣雨。龜、鬱、纏、驗、靈、關於這個問題，專家認為應當謹慎處理。",
    ),
    "Russian": (
        200,
        "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. Всё смешалось в "
        "доме Облонских. Жена узнала, что муж был в связи с бывшею в их доме француженкою-гувернанткой, и объявила "
        "мужу, что не может жить с ним в одном доме.",
    ),
    "emoji": (134, "😀🎉🚀👩‍👩‍👧‍👦❤️🇩🇪👍🏽🤖🔥💡🙈🦜🏳️‍🌈" * 2),
    "capitals": (71, "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG AND RUNS AWAY FROM THE ANGRY FARMER. " * 2),
}
"""Tokens by /tokenize of the embedded SmolLM2-135M-Instruct."""

TURNS = st.lists(
    st.builds(Turn, st.sampled_from(Role), st.text(st.sampled_from("a 你1"), max_size=200)), min_size=1, max_size=12
)


@pytest.mark.parametrize("name", MEASURED)
def test_the_estimate_is_from_above_and_not_twice_the_truth(name: str) -> None:
    tokens, text = MEASURED[name]
    assert tokens <= estimate_tokens(text) <= 2 * tokens


@given(st.text(st.characters(exclude_categories=())), st.text())
def test_every_text_has_an_estimate_and_more_text_has_no_smaller_one(text: str, more: str) -> None:
    assert 0 <= estimate_tokens(text) <= estimate_tokens(text + more)
    assert estimate_tokens(text) <= estimate_tokens(text * 2) <= 2 * estimate_tokens(text)


def test_estimating_a_long_history_does_not_hold_the_loop() -> None:
    turns = [Turn(Role.USER, "words and 数字 12 " * 6_000)] * 400
    begun = time.perf_counter()
    trim(turns, 4_096, 512)
    assert time.perf_counter() - begun < 0.05


@given(TURNS, st.integers(1, 1_000), st.integers(1, 4_096))
def test_trimming_drops_only_the_oldest_turns(turns: list[Turn], window: int, max_tokens: int) -> None:
    kept = trim(turns, window, max_tokens)
    system = [turn for turn in turns if turn.role is Role.SYSTEM]
    talk = [turn for turn in turns if turn.role is not Role.SYSTEM]
    kept_talk = [turn for turn in kept if turn.role is not Role.SYSTEM]
    assert [turn for turn in kept if turn.role is Role.SYSTEM] == system
    assert kept_talk == talk[len(talk) - len(kept_talk) :]
    assert turns[-1] in kept
    positions = iter(turns)
    assert all(any(turn is other for other in positions) for turn in kept), "the order stays"

    budget = window - min(max_tokens, window // ANSWER_SHARE)
    must_stay = [*system, *([turns[-1]] if turns[-1].role is not Role.SYSTEM else [])]
    assert estimate_turns(kept) <= max(budget, estimate_turns(must_stay))
    dropped = talk[: len(talk) - len(kept_talk)]
    if dropped:
        assert estimate_turns([*kept, dropped[-1]]) > budget, "one more would have fitted"


@given(TURNS)
def test_an_unknown_window_drops_nothing(turns: list[Turn]) -> None:
    assert trim(turns, None, 2_048) == tuple(turns)


def test_each_turn_costs_what_a_chat_template_adds() -> None:
    assert estimate_turns([Turn(Role.USER, "")] * 3) == 3 * PER_TURN
