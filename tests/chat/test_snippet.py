from hypothesis import given
from hypothesis import strategies as st

from chat.search import parse_query
from chat.snippet import LENGTH, Part, snippet_of


def marked(content: str, query: str) -> str:
    return "".join(f"[{part.text}]" if part.hit else part.text for part in snippet_of(content, parse_query(query)))


def test_hits_are_marked_in_the_text_as_it_was_written() -> None:
    assert marked("The Quick brown fox", "quick fox") == "The [Quick] brown [fox]"
    assert marked("Straßenfest", "STRASSEN") == "[Straßenfest]"
    assert (
        marked("我们讨论数据库的问题", "数据库") == "我们讨论[数据库]的问题"
        or marked("我们讨论数据库的问题", "数据库") == "我们讨论[数据][库]的问题"
    )


def test_a_phrase_is_marked_where_it_is_one() -> None:
    assert marked("fox quick, quick fox", '"quick fox"') == "fox quick, [quick fox]"


def test_one_character_is_marked() -> None:
    assert marked("你好", "好") == "你[好]"


def test_the_window_is_where_most_words_are() -> None:
    text = "apple " + "filler " * 100 + "apple and pear together" + " filler" * 100
    snippet = marked(text, "apple pear")
    assert "[apple] and [pear]" in snippet
    assert snippet.startswith("…")
    assert snippet.endswith("…")


def test_white_space_is_one_space() -> None:
    assert marked("a\n\n\tneedle   b", "needle") == "a [needle] b"


def test_nothing_is_markup() -> None:
    """A client shows it as text; nothing in it is escaped for it, or taken out."""
    assert marked("<b onclick=x>needle</b>", "needle") == "<b onclick=x>[needle]</b>"


@given(st.text(max_size=400), st.text(min_size=1, max_size=20))
def test_whatever_it_is_it_is_short_and_of_the_text(content: str, query: str) -> None:
    terms = parse_query(query.replace("\x00", "x") if query.strip("\x00 ").strip() else "x")
    parts = snippet_of(content, terms)
    assert sum(len(part.text) for part in parts) <= LENGTH + 2
    assert all(isinstance(part, Part) and part.text for part in parts)
