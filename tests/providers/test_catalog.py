import pytest

from errors import ModelUnavailable
from providers.base import ModelInfo
from providers.catalog import Catalog
from providers.scripted import ScriptedProvider
from providers.vendors import GOOGLE, OPENAI


class Shelf(ScriptedProvider):
    """A provider with these models on show, and perhaps some that are not."""

    def __init__(self, name: str, *shown: str, hidden: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.name = name
        self.shown = shown
        self.hidden = hidden
        self.closed = 0

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(model, self.name, 100) for model in self.shown]

    def find(self, model: str) -> ModelInfo | None:
        return ModelInfo(model, self.name, 100) if model in (*self.shown, *self.hidden) else None

    async def aclose(self) -> None:
        self.closed += 1


def names(catalog: Catalog, requested: str) -> list[tuple[str, str]]:
    return [(candidate.provider.name, candidate.model.id) for candidate in catalog.candidates(requested)]


def test_models_are_shown_provider_by_provider_and_the_first_is_the_default() -> None:
    catalog = Catalog([Shelf("one", "a", "b"), Shelf("two", "c")])
    assert [model.id for model in catalog.models()] == ["a", "b", "c"]
    assert catalog.default == "a"


def test_the_asked_model_is_tried_first_then_the_fallbacks_in_order_and_none_twice() -> None:
    catalog = Catalog([Shelf("one", "a", "b"), Shelf("two", "c")], ["c", "b", "c"])
    assert names(catalog, "a") == [("one", "a"), ("two", "c"), ("one", "b")]
    assert names(catalog, "b") == [("one", "b"), ("two", "c")]


def test_an_unknown_model_is_answered_by_the_fallbacks() -> None:
    """The guide's clients ask for gpt-3.5-turbo, whoever is there."""
    assert names(Catalog([Shelf("one", "a")], ["nowhere", "a"]), "gpt-3.5-turbo") == [("one", "a")]


def test_by_default_the_first_model_stands_in() -> None:
    assert names(Catalog([Shelf("one", "a", "b")]), "gpt-3.5-turbo") == [("one", "a")]


def test_without_fallbacks_an_unknown_model_is_unavailable_and_named() -> None:
    with pytest.raises(ModelUnavailable, match=r"'gpt-3\.5-turbo'"):
        Catalog([Shelf("one", "a")], []).candidates("gpt-3.5-turbo")
    with pytest.raises(ModelUnavailable) as caught:
        Catalog([], None).candidates("x" * 10_000)
    assert len(caught.value.message) <= 200


def test_a_model_that_is_not_shown_can_be_asked_for() -> None:
    assert names(Catalog([Shelf("one", "a", hidden=("b",))], []), "b") == [("one", "b")]


def test_of_two_providers_with_one_model_the_first_answers() -> None:
    assert names(Catalog([Shelf("one", "a"), Shelf("two", "a")], []), "a") == [("one", "a")]


def test_without_providers_there_is_no_default() -> None:
    assert (Catalog([]).default, Catalog([]).models()) == (None, [])


def test_the_default_that_is_set_goes_before_the_first_that_is_shown() -> None:
    catalog = Catalog([Shelf("one", "a", "b")], default="b")
    assert catalog.default == "b"
    assert names(catalog, "unknown") == [("one", "b")], "it stands in as well"


class Server(Shelf):
    """Its models carry its name and have short ones besides."""

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(f"{self.name}/{model}", self.name, 100) for model in self.shown]

    def find(self, model: str) -> ModelInfo | None:
        short = model.removeprefix(f"{self.name}/")
        return ModelInfo(f"{self.name}/{short}", self.name, 100) if short != model or short in self.shown else None


class Open(Shelf):
    """It takes every name."""

    def find(self, model: str) -> ModelInfo | None:
        return ModelInfo(model, self.name, None)


def test_a_short_name_is_enough_where_one_server_has_it() -> None:
    catalog = Catalog([Server("lab", "llama", "qwen"), Server("cloud", "llama")], [])
    assert names(catalog, "qwen") == [("lab", "lab/qwen")]
    assert names(catalog, "cloud/llama") == [("cloud", "cloud/llama")]
    assert names(catalog, "cloud/anything") == [("cloud", "cloud/anything")]
    with pytest.raises(ModelUnavailable, match="say lab/llama or cloud/llama"):
        catalog.candidates("llama")


def test_a_whole_name_goes_before_a_short_one() -> None:
    assert names(Catalog([Server("lab", "a"), Shelf("one", "a")], []), "a") == [("one", "a")]


def test_what_is_no_other_s_goes_to_the_one_that_takes_every_name() -> None:
    rest = Open("rest", "llama")
    catalog = Catalog([rest, Server("lab", "llama", "qwen"), Shelf("one", "a")], [], catch_all=rest)
    assert names(catalog, "whatever") == [("rest", "whatever")]
    assert names(catalog, "a") == [("one", "a")]
    assert names(catalog, "lab/llama") == [("lab", "lab/llama")]
    assert names(catalog, "llama") == [("rest", "llama")], "shown by this very name"
    assert names(catalog, "qwen") == [("lab", "lab/qwen")]


def test_what_a_key_would_open_is_shown_last_and_named_when_it_is_asked_for() -> None:
    catalog = Catalog([Shelf("one", "a", GOOGLE.known[0])], [], missing=[OPENAI, GOOGLE])
    shown = [(model.id, model.unavailable_reason) for model in catalog.models()]
    assert shown[:2] == [("a", None), (GOOGLE.known[0], None)]
    assert (OPENAI.known[0], "Set OPENAI_API_KEY to use it") in shown
    assert len(shown) == len({model for model, _ in shown}), "none twice"
    assert catalog.default == "a"
    with pytest.raises(ModelUnavailable, match=r"'gpt-4o'\. Set OPENAI_API_KEY to use it"):
        catalog.candidates("gpt-4o")
    with pytest.raises(ModelUnavailable, match=r"'llama'$"):
        catalog.candidates("llama")


def test_a_model_without_its_key_is_nobody_s_default() -> None:
    assert Catalog([], missing=[OPENAI]).default is None


async def test_closing_closes_every_provider() -> None:
    shelves = [Shelf("one"), Shelf("two")]
    await Catalog(shelves).aclose()
    assert [shelf.closed for shelf in shelves] == [1, 1]
