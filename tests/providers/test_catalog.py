import pytest

from errors import ModelUnavailable
from providers.base import ModelInfo
from providers.catalog import Catalog
from providers.scripted import ScriptedProvider


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


async def test_closing_closes_every_provider() -> None:
    shelves = [Shelf("one"), Shelf("two")]
    await Catalog(shelves).aclose()
    assert [shelf.closed for shelf in shelves] == [1, 1]
