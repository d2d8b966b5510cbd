"""Server-sent events, as model servers use them: cut anywhere by the network, and not always by the specification."""

import json

from providers.failures import Garbled

MAX_LINE = 1 << 20  # bytes; a token's line is about 250
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DONE = b"[DONE]"
NOT_AN_ANSWER = "The model's provider sent something that is not an answer"


class DataLines:
    """Bytes in, whole payloads out. Lines that are not `data:` are dropped.

    Several `data:` lines are one payload, up to the blank line. A first line that is whole by itself does not wait for
    that: some servers leave it out, or send it with the next event.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._idle = 0
        self._begun = False
        self._after_return = False
        self._held: list[bytes] = []
        self._more = False
        """The first line that is held was looked at, and is not whole."""

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes. A character cut in two stays whole: only whole lines are decoded.

        Raises Garbled if a line, or the noise since the last payload, grows past MAX_LINE.
        """
        if b"\r" in data or self._after_return:
            data = self._with_line_feeds(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
        payloads: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                if self._held:
                    self._let_go_of_whole(payloads)
                self._held.append(line[5:].strip())
            elif not line and self._held:
                self._let_go(payloads)
        if self._held:
            self._let_go_of_whole(payloads)
        self._idle = 0 if payloads else self._idle + len(data)
        if self._idle > MAX_LINE or len(self._rest) > MAX_LINE:
            raise Garbled(NOT_AN_ANSWER)
        return payloads

    def _with_line_feeds(self, data: bytes) -> bytes:
        """A line ends with CR, LF, or both, between which the network may cut."""
        if self._after_return and data:
            data = data.removeprefix(b"\n")
            self._after_return = False
        self._after_return = self._after_return or data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _let_go(self, payloads: list[bytes]) -> None:
        payloads.append(self._held[0] if len(self._held) == 1 else b"\n".join(self._held))
        self._held.clear()
        self._more = False

    def _let_go_of_whole(self, payloads: list[bytes]) -> None:
        if self._more:
            return
        if _is_whole(self._held[0]):
            self._let_go(payloads)
        else:
            self._more = True


def _is_whole(payload: bytes) -> bool:
    """Whether a line can be no beginning of more: JSON that is whole, or a word."""
    if payload == DONE or payload[:1] not in b"{[":
        return True
    try:
        json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return True
