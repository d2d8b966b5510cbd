import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.names import MAX_NAME_CHARS, clean_email, clean_password, clean_username
from errors import BadUserInput
from models.user import name_key

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=80)


class TestNames:
    @pytest.mark.parametrize("name", ["a", "张伟", "José", "user name", "a.b-c_d@e", "👩\u200d💻"[:1], "ж" * 64, "😀"])
    def test_are_welcome(self, name: str) -> None:
        assert clean_username(name) == unicodedata.normalize("NFC", name)

    @pytest.mark.parametrize(
        "name",
        ["", " ", "\u3000", "a" * 65, "a\x00", "a\nb", "a\x7f", "a\x85b", "a\x9b2Jb", "\u200b", "a\u202eb"],
    )
    def test_that_nobody_can_see_or_type_are_not(self, name: str) -> None:
        """Controls (C1 too: a terminal obeys them), invisible and direction-changing characters, no text at all."""
        with pytest.raises(BadUserInput) as caught:
            clean_username(name)
        assert caught.value.field == "username"

    @pytest.mark.parametrize(
        "letter",
        ["\u00ad", "\ufeff", "\ud800", "\u061c", "\u2028", "\u2066", "\ufff9", "\U000e0041", "\u180e", "\u200d"],
    )
    def test_are_not_spoofed_by_what_does_not_show(self, letter: str) -> None:
        with pytest.raises(BadUserInput):
            clean_username(f"ann{letter}a")

    @given(ANYTHING)
    def test_that_are_let_in_are_clean_and_stay_so(self, text: str) -> None:
        try:
            name = clean_username(text)
        except BadUserInput:
            return
        assert 0 < len(name) <= MAX_NAME_CHARS
        assert name == name.strip()
        assert unicodedata.is_normalized("NFC", name)
        assert all(unicodedata.category(letter) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for letter in name)
        assert clean_username(name) == name
        name.encode()

    @given(ANYTHING)
    def test_composed_or_not_and_in_any_case_have_one_key(self, text: str) -> None:
        for form in ("NFC", "NFD"):
            assert name_key(unicodedata.normalize(form, text)) == name_key(text)
        assert name_key(text.casefold()) == name_key(name_key(text))


class TestAddresses:
    @pytest.mark.parametrize(
        ("given_", "stored"),
        [
            ("test@example.com", "test@example.com"),
            (" a.b+c@Example.COM ", "a.b+c@example.com"),
            ("用户@例子.广告", "用户@例子.广告"),
            ("a@test", "a@test"),
        ],
    )
    def test_of_every_usual_form(self, given_: str, stored: str) -> None:
        assert clean_email(given_) == stored

    @pytest.mark.parametrize(
        "text",
        ["", "a", "a@", "@b.com", "a b@c.com", "a@b..com", "a@b.com\x00", "\ud800@b.com", "a\u202e@b.com"],
    )
    def test_that_are_none(self, text: str) -> None:
        with pytest.raises(BadUserInput) as caught:
            clean_email(text)
        assert caught.value.field == "email"

    @pytest.mark.parametrize(
        "text", ["a@" + "b" * 250 + ".com", "<a@b.com>", "Ann <a@b.com>", "a@b.com,c@d.com", "a@b.com\nb@c.com"]
    )
    def test_that_are_more_than_one(self, text: str) -> None:
        with pytest.raises(BadUserInput):
            clean_email(text)

    @given(ANYTHING)
    def test_whatever_comes_is_an_address_or_bad_input(self, text: str) -> None:
        try:
            address = clean_email(text)
        except BadUserInput:
            return
        assert "@" in address


class TestPasswords:
    @pytest.mark.parametrize("password", ["12345678", "p" * 128, "        ", "密码密码密码密码", "a\nb\tc\u200bd!"])
    def test_any_8_to_128_characters_will_do(self, password: str) -> None:
        assert clean_password(password) == password

    @pytest.mark.parametrize("password", ["", "1234567", "p" * 129, "密码密码密码密", "1234567\x00", "1234567\ud800"])
    def test_others_will_not(self, password: str) -> None:
        with pytest.raises(BadUserInput) as caught:
            clean_password(password)
        assert caught.value.field == "password"
