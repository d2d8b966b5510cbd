"""Which models can be asked for, and who answers when the asked one cannot."""

from collections.abc import Sequence
from dataclasses import dataclass

from errors import ModelUnavailable
from providers.base import ModelInfo, Provider
from providers.prices import Price


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to answer: a provider and the model's name there."""

    provider: Provider
    model: ModelInfo


class Catalog:
    """All the providers of this server. `fallback` None: the first model of the list while no paid provider is set."""

    def __init__(self, providers: Sequence[Provider], fallback: Sequence[str] | None = None) -> None:
        self._providers = tuple(providers)
        self._fallback = None if fallback is None else tuple(fallback)

    def models(self) -> list[ModelInfo]:
        return [model for provider in self._providers for model in provider.models()]

    @property
    def default(self) -> str | None:
        """The model of a conversation whose creator named none."""
        models = self.models()
        return models[0].id if models else None

    def candidates(self, requested: str) -> list[Candidate]:
        """Who to try for this model, in order; never empty.

        Raises:
            ModelUnavailable: no provider has the model and there is nothing to fall back to.
        """
        names = dict.fromkeys([requested, *self._fallback_names()])
        found = [candidate for name in names if (candidate := self._find(name)) is not None]
        if not found:
            raise ModelUnavailable(f"No provider here has the model {requested!r}"[:200])
        return found

    def _fallback_names(self) -> Sequence[str]:
        if self._fallback is not None:
            return self._fallback
        return [self.default] if self.default is not None else []

    def _find(self, name: str) -> Candidate | None:
        for provider in self._providers:
            if (model := provider.find(name)) is not None:
                return Candidate(provider, model)
        return None

    def price(self, provider: str, model: str) -> Price | None:
        """What the provider of this name asks for the model now; None: not known."""
        for each in self._providers:
            if each.name == provider and (found := each.find(model)) is not None:
                return found.price
        return None

    async def aclose(self) -> None:
        for provider in self._providers:
            await provider.aclose()
