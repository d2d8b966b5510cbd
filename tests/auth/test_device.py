import pytest

from auth.device import UNKNOWN, Device


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unix socket", "unix socket"),
        (None, ""),
    ],
)
def test_attempts_are_counted_for_a_site(address: str | None, site: str) -> None:
    """One IPv6 subscriber has 2^64 addresses: counted one by one, nothing would be limited."""
    assert Device(address).site == site


def test_nobody_knows_more_about_the_unknown() -> None:
    assert (UNKNOWN.address, UNKNOWN.user_agent, UNKNOWN.site) == (None, None, "")
