import pytest

from bus.address import RedisAddress


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://redis", "redis://redis"),
        ("rediss://user:hidden@h:1/2", "rediss://h:1/2"),
        ("redis://:hidden@[::1]:6379/1", "redis://[::1]:6379/1"),
        ("redis://h?password=hidden", "redis://h"),
        ("valkey://h/3", "redis://h/3"),
        ("valkeys://h", "rediss://h"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock"),
        (" REDIS://h ", "redis://h"),
    ],
)
def test_is_taken_and_shown_without_its_password(url: str, shown: str) -> None:
    assert str(RedisAddress.parse(url)) == shown


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("localhost:6379", "not an address"),
        ("http://h", "not an address"),
        ("", "not an address"),
        ("redis://", "no host"),
        ("redis:///0", "no host"),
        ("redis://h:port", "port"),
        ("redis://h:70000", "port"),
        ("redis://h/users", "number"),
        ("redis://h/0?socket_timeout=hidden", "socket_timeout"),
        ("unix://", "no socket"),
    ],
)
def test_what_is_none_is_said(url: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        RedisAddress.parse(url)
    assert "hidden" not in str(caught.value)
