import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.sealing import NotOurs, Seal

SECRET = "a secret for tests only, 32 bytes or more"


@given(st.binary(max_size=200), st.text(max_size=40))
def test_what_is_sealed_opens_for_its_owner(content: bytes, owner: str) -> None:
    owner = owner.encode(errors="replace").decode()
    seal = Seal(SECRET, "test")
    sealed = seal.close(content, owner)
    assert seal.open(sealed, owner) == content
    assert sealed.isascii()
    assert sealed != seal.close(content, owner), "no two look alike"


def test_it_opens_for_nobody_else() -> None:
    """A row that is copied to another user's, a cookie that is used as a ticket, a secret that was changed."""
    sealed = Seal(SECRET, "test").close(b"content", "ann")
    assert b"content" not in sealed.encode()
    for seal, owner in (
        (Seal(SECRET, "test"), "bob"),
        (Seal(SECRET, "other"), "ann"),
        (Seal(SECRET + "x", "test"), "ann"),
    ):
        with pytest.raises(NotOurs):
            seal.open(sealed, owner)


@pytest.mark.parametrize("text", ["", "a", "=", "====", "é", "\ud800", "A" * 16, "A" * 100_000, "a b c d"])
def test_what_was_never_sealed_does_not_open(text: str) -> None:
    with pytest.raises(NotOurs):
        Seal(SECRET, "test").open(text, "ann")


def test_a_changed_bit_is_noticed() -> None:
    seal = Seal(SECRET, "test")
    sealed = seal.close(b"content", "ann")
    for place in range(len(sealed)):
        changed = sealed[:place] + ("A" if sealed[place] != "A" else "B") + sealed[place + 1 :]
        with pytest.raises(NotOurs):
            seal.open(changed, "ann")
