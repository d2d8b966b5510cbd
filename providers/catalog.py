"""Which models can be asked for, and who answers when the asked one cannot."""

from collections.abc import Sequence
from dataclasses import dataclass

from errors import ModelUnavailable
from providers.base import ModelInfo, Provider
from providers.prices import Price
from providers.vendors import Vendor


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to answer: a provider and the model's name there."""

    provider: Provider
    model: ModelInfo


class Catalog:
    """All the providers of this server, in the order in which they are shown.

    `default`: the model of whoever names none; None: the first that is shown. `fallback`: who is asked when the asked
    model cannot answer; None: the default. `catch_all`: the one of the providers that takes every name that is no
    other's. `missing`: vendors whose keys are not set.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        fallback: Sequence[str] | None = None,
        *,
        default: str | None = None,
        catch_all: Provider | None = None,
        missing: Sequence[Vendor] = (),
    ) -> None:
        self._providers = tuple(providers)
        self._fallback = None if fallback is None else tuple(fallback)
        self._default = default
        self._catch_all = catch_all
        self._missing = tuple(missing)

    def models(self) -> list[ModelInfo]:
        """What can be asked for, and behind it what could be if a key were set."""
        here = [model for provider in self._providers for model in provider.models()]
        ids = {model.id for model in here}
        return here + [model for vendor in self._missing for model in vendor.without_key() if model.id not in ids]

    @property
    def default(self) -> str | None:
        """The model of a conversation whose creator named none."""
        if self._default is not None:
            return self._default
        return next((model.id for provider in self._providers for model in provider.models()), None)

    def candidates(self, requested: str) -> list[Candidate]:
        """Who to try for this model, in order; never empty.

        Raises:
            ModelUnavailable: no provider has the model and there is nothing to fall back to.
        """
        names = dict.fromkeys([requested, *self._fallback_names()])
        found = [candidate for name in names if (candidate := self._find(name)) is not None]
        if not found:
            raise ModelUnavailable(self.missing(requested))
        return found

    def missing(self, requested: str) -> str | None:
        """That nobody has this model, and what would help, for people; None: somebody has it."""
        if self._find(requested) is not None:
            return None
        return f"No provider here has the model {requested[:100]!r}{self._hint(requested)}"

    def _fallback_names(self) -> Sequence[str]:
        if self._fallback is not None:
            return self._fallback
        return [self.default] if self.default is not None else []

    def _find(self, name: str) -> Candidate | None:
        found = self._found(name)
        for candidate in found:
            if candidate.model.id == name:
                return candidate
        rest = self._catch_all
        if rest is not None and (not found or any(model.id == name for model in rest.models())):
            model = rest.find(name)
            return None if model is None else Candidate(rest, model)
        # A short name, for which several may be meant.
        return found[0] if len(found) == 1 else None

    def _found(self, name: str) -> list[Candidate]:
        others = (provider for provider in self._providers if provider is not self._catch_all)
        return [Candidate(provider, model) for provider in others if (model := provider.find(name)) is not None]

    def _hint(self, name: str) -> str:
        if several := [candidate.model.id for candidate in self._found(name)]:
            return f": say {' or '.join(several[:3])}"
        return next((f". {vendor.wish}" for vendor in self._missing if vendor.has(name)), "")

    def price(self, provider: str, model: str) -> Price | None:
        """What the provider of this name asks for the model now; None: not known."""
        for each in self._providers:
            if each.name == provider and (found := each.find(model)) is not None:
                return found.price
        return None

    async def aclose(self) -> None:
        for provider in self._providers:
            await provider.aclose()
