import re
from decimal import Decimal
from pathlib import Path

import pytest

from errors import StartError
from providers import servers
from providers.prices import flat_price
from providers.servers import parse_servers

WHOLE = """
[servers.groq]
base_url = "https://api.groq.com/openai/v1/"
key_variable = "GROQ_API_KEY"
models = [
  "llama-3.3-70b-versatile",
  { name = "qwen3-32b", context_window = 131072, prompt_price = 0.29, completion_price = 0.59 },
]

[servers.lab]
base_url = "http://gpu1:8000/v1"
"""


def variable(name: str) -> str | None:
    return {"GROQ_API_KEY": "gsk-hidden"}.get(name)


def test_a_whole_file() -> None:
    groq, lab = parse_servers(WHOLE, variable)
    assert (groq.name, groq.base_url, groq.key, groq.wish) == (
        "groq",
        "https://api.groq.com/openai/v1",
        "gsk-hidden",
        None,
    )
    assert [model.name for model in groq.models] == ["llama-3.3-70b-versatile", "qwen3-32b"]
    assert groq.models[0].price is None
    assert groq.models[1].context_window == 131_072
    assert groq.models[1].price == flat_price(Decimal("0.29"), Decimal("0.59"))
    assert (lab.name, lab.key, lab.wish, lab.models) == ("lab", None, None, ())


def test_a_line_break_behind_an_address_is_none_of_it() -> None:
    (server,) = parse_servers('[servers.a]\nbase_url = "http://h/v1\\n"', variable)
    assert server.base_url == "http://h/v1"


def test_a_key_is_in_no_text() -> None:
    assert "hidden" not in repr(parse_servers(WHOLE, variable))


def test_a_key_that_is_not_set_is_a_wish_and_no_error() -> None:
    groq, _ = parse_servers(WHOLE, lambda _: None)
    assert groq.wish == "Set GROQ_API_KEY to use it"


def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated() -> None:
    with pytest.raises(StartError) as caught:
        parse_servers(WHOLE, lambda _: "gsk hidden")
    assert str(caught.value) == (
        "MODELS_FILE: servers.groq: GROQ_API_KEY holds characters that no key has, such as a space or a line break"
    )


def test_the_example_in_the_module_is_one() -> None:
    example = "\n".join(re.findall(r"^    (.*)$", servers.__doc__ or "", re.MULTILINE))
    (groq,) = parse_servers(example, variable)
    assert len(groq.models) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no server"]),
        ("[servers]", ["no server"]),
        ("servers = 3", ["no server"]),
        ("[servers.a\n", ["line 1"]),
        ("[server.a]\nbase_url = 'http://h/v1'", ["'server'", "[servers.groq]"]),
        ("[servers.a]", ["servers.a.base_url", "required"]),
        ("[servers]\na = 1", ["servers.a", "base_url"]),
        ("[servers.a]\nbase_url = 'gpu:8000'", ["servers.a.base_url", "https://example.com/v1"]),
        ("[servers.a]\nbase_url = 'ftp://h/v1'", ["servers.a.base_url"]),
        ("[servers.a]\nbase_url = 'http://[::1'", ["servers.a.base_url"]),
        ("[servers.a]\nbase_url = 'http://h:99999/v1'", ["servers.a.base_url", "65535"]),
        ("[servers.a]\nbase_url = 'http://h:port/v1'", ["servers.a.base_url", "65535"]),
        ("[servers.a]\nbase_url = 'http://h h/v1'", ["servers.a.base_url", "spaces"]),
        ('[servers.a]\nbase_url = "http://h\\u0001/v1"', ["servers.a.base_url"]),
        ("a = " + "[" * 5000 + "]" * 5000, ["nested"]),
        ("[servers.a]\nbase_url = 'http://user:hidden@h/v1'", ["servers.a.base_url", "set a key"]),
        ("[servers.a]\nbase_url = 'http://h/v1'\nkey = 'sk-hidden'", ["servers.a", "key_variable"]),
        ("[servers.a]\nbase_url = 'http://h/v1'\nurl = 3", ["servers.a.url"]),
        ("[servers.a]\nbase_url = 'http://h/v1'\nkey_variable = 'not a name'", ["servers.a.key_variable"]),
        ("[servers.a]\nbase_url = 'http://h/v1'\nmodels = ['']", ["servers.a.models.0"]),
        ("[servers.a]\nbase_url = 'http://h/v1'\nmodels = [{name='b', prompt_price=-1}]", ["models.0.prompt_price"]),
        ("[servers.a]\nbase_url = 'http://h/v1'\nmodels = [{name='b', context_window='x'}]", ["context_window"]),
        ("[servers.openai]\nbase_url = 'http://h/v1'", ["servers.openai", "another provider"]),
        ("[servers.'a b']\nbase_url = 'http://h/v1'", ["servers.a b"]),
        ("\n".join(f"[servers.s{n}]\nbase_url = 'http://h/v1'" for n in range(51)), ["more than 50"]),
    ],
)
def test_what_is_wrong_is_one_line_that_says_where(text: str, words: list[str]) -> None:
    with pytest.raises(StartError) as caught:
        parse_servers(text, variable)
    line = str(caught.value)
    assert line.startswith("MODELS_FILE: ")
    assert "\n" not in line
    assert "hidden" not in line
    for word in words:
        assert word in line


def test_the_docs_show_the_same_example() -> None:
    shown = re.search(r"```toml\n(.*?)```", Path("docs/operations.md").read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert parse_servers(shown.group(1), variable)
