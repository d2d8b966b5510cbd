"""The vendors that a key in the settings opens: what their models are called, and a few of them by name."""

import re
from dataclasses import dataclass

from providers.base import ModelInfo
from providers.prices import context_window, list_price


@dataclass(frozen=True, slots=True)
class Vendor:
    """`known`: models to show before the vendor has listed its own, or without a key; the first is its default."""

    name: str
    variable: str
    names: re.Pattern[str]
    known: tuple[str, ...]

    def has(self, model: str) -> bool:
        """Whether a model of this name would be this vendor's."""
        return self.names.match(model) is not None

    @property
    def wish(self) -> str:
        return f"Set {self.variable} to use it"

    def sold(self, model: str) -> ModelInfo:
        """A model of this vendor's, with what is known of it: its window, its price."""
        name = model.removeprefix("models/")
        return ModelInfo(model, self.name, context_window(self.name, name), price=list_price(self.name, name))

    def without_key(self) -> list[ModelInfo]:
        """What could be asked for if the key were set, saying so."""
        return [ModelInfo(model, self.name, None, self.wish) for model in self.known]


OPENAI = Vendor(
    "openai",
    "OPENAI_API_KEY",
    re.compile(r"gpt-(?!oss)|chatgpt-|o\d|ft:"),
    ("gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol", "gpt-4o-mini"),
)
ANTHROPIC = Vendor(
    "anthropic",
    "ANTHROPIC_API_KEY",
    re.compile(r"claude-"),
    ("claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5-5"),
)
GOOGLE = Vendor(
    "google",
    "GOOGLE_API_KEY",
    re.compile(r"(models/)?(gemini|gemma)-"),
    ("gemini-3.8-flash", "gemini-4-argon"),
)
VENDORS = (OPENAI, ANTHROPIC, GOOGLE)
