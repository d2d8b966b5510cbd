"""How long a provider may be silent: one timer for a whole answer, not one for each chunk."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager

from errors import ProviderSilent
from watchdog import Watchdog


class Patience:
    """`seconds`: for how long it may be silent since it last said something; None: it has said nothing."""

    __slots__ = ("_now", "_until", "seconds")

    def __init__(self, watchdog: Watchdog) -> None:
        self.seconds: float | None = None
        self._now = asyncio.get_running_loop().time
        self._until = watchdog.until

    def renew(self, seconds: float) -> None:
        """From now on it may be silent for so long."""
        self.seconds = seconds
        self._until(self._now() + seconds)


@contextmanager
def patient(seconds: float) -> Iterator[Patience]:
    """A block that ends when nobody has called `renew` in time.

    Raises:
        ProviderSilent: in the place of the cancellation.
    """
    with closing(Watchdog()) as watchdog:
        patience = Patience(watchdog)
        try:
            with watchdog.until(asyncio.get_running_loop().time() + seconds):
                yield patience
        except TimeoutError:
            waited = f"begin within {seconds:g}" if patience.seconds is None else f"go on within {patience.seconds:g}"
            raise ProviderSilent(f"The model did not {waited} seconds; try again") from None
