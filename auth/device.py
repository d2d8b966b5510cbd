"""Where somebody asks from."""

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

IPV6_SITE = 64


@dataclass(frozen=True, slots=True)
class Device:
    """`address` is an IP address as text (or whatever the server knows the other end by), `user_agent` what the client
    calls itself: both are None where nobody knows, and neither is proof of anything."""

    address: str | None = None
    user_agent: str | None = None

    @property
    def site(self) -> str:
        """Whom to count its attempts for: an IPv6 subscriber has a whole /64 of addresses to ask from."""
        if self.address is None:
            return ""
        try:
            address = ip_address(self.address)
        except ValueError:
            return self.address
        if address.version == 6:
            if address.ipv4_mapped is not None:
                return str(address.ipv4_mapped)
            return str(ip_network((int(address), IPV6_SITE), strict=False))
        return str(address)


UNKNOWN = Device()
