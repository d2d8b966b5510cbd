"""The embedded models that this machine has or could have, and the one that is meant by a name."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from providers.fetch import part_of
from providers.gguf import Header, NotGGUF, read_header
from providers.weights import CATALOGUE, DEFAULT, EmbeddedWeights, WeightsDamaged, WeightsMissing, check

SUFFIX = ".gguf"


class NoSuchModel(Exception):
    """No model of this name. The text is one line that lists what there is."""


class State(StrEnum):
    PRESENT = "present"
    ABSENT = "absent"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Item:
    """`fetched`: bytes of a download that was broken off."""

    weights: EmbeddedWeights
    state: State
    fetched: int = 0


def stock(models_dir: Path, chosen: EmbeddedWeights | None = None) -> list[Item]:
    """The catalogue, then what the user put into the directory, then `chosen` if it is elsewhere. Reads every file that
    is to be checked: a second for a gigabyte."""
    known = [*CATALOGUE.values(), *_by_hand(models_dir)]
    if chosen is not None and chosen not in known:
        known.append(chosen)
    return [_item(weights, models_dir) for weights in known]


def _item(weights: EmbeddedWeights, models_dir: Path) -> Item:
    try:
        check(weights, models_dir)
    except WeightsMissing:
        part = part_of(weights, models_dir)
        return Item(weights, State.ABSENT, part.stat().st_size if part.exists() else 0)
    except WeightsDamaged:
        return Item(weights, State.DAMAGED)
    return Item(weights, State.PRESENT)


def find(name: str | None, models_dir: Path) -> EmbeddedWeights:
    """The model of this name, or of this file name, in the catalogue or the directory; or of this absolute path; None:
    the default.

    Raises NoSuchModel.
    """
    if name is None:
        return CATALOGUE[DEFAULT]
    if Path(name).is_absolute():
        return _at(Path(name), models_dir)
    known = [*CATALOGUE.values(), *_by_hand(models_dir)]
    for fold in (str, str.casefold):
        for weights in known:
            file = weights.file
            if fold(name) in {fold(weights.name), fold(file), fold(file.removesuffix(SUFFIX))}:
                return weights
    raise NoSuchModel(f"there is no model {name[:100]!r}; there are {', '.join(weights.name for weights in known)}")


def _at(path: Path, models_dir: Path) -> EmbeddedWeights:
    for weights in CATALOGUE.values():
        if path == weights.path(models_dir):
            return weights
    if not path.is_file():
        raise NoSuchModel(f"there is no file {path}")
    return _described(path, str(path))


def _by_hand(models_dir: Path) -> Iterator[EmbeddedWeights]:
    known = {weights.file for weights in CATALOGUE.values()}
    for path in sorted(models_dir.glob(f"*{SUFFIX}")):
        if path.name not in known and path.is_file():
            yield _described(path, path.name)


def _described(path: Path, file: str) -> EmbeddedWeights:
    """By what the file says of itself; one that says nothing is found damaged when it is to be used."""
    try:
        header = read_header(path)
    except (NotGGUF, OSError):
        header = Header("", None, None, ())
    return EmbeddedWeights(
        name=path.name if path.stem in CATALOGUE else path.stem,
        file=file,
        bytes=path.stat().st_size,
        sha256="",
        context_window=header.context_window,
        token_bytes=header.token_bytes,
        languages=header.languages,
    )
