"""What the embedded model's child is doing, by its own word."""

from pathlib import Path

from providers.loopback import loopback_client
from providers.rendezvous import Rendezvous


async def busy_slots(data_dir: Path) -> int:
    """How many answers it decodes now. Waits for the current decoding step."""
    found = Rendezvous(data_dir / "embedded").discover()
    assert found is not None, "the model is not running"
    async with loopback_client() as client:
        told = await client.get(
            f"{found.base_url}/slots", headers={"Authorization": f"Bearer {found.secret}"}, timeout=30
        )
    slots: list[dict[str, bool]] = told.raise_for_status().json()
    return sum(slot["is_processing"] for slot in slots)
