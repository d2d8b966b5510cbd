"""Server-sent events, as model servers use them: one `data:` line each, cut anywhere by the network."""

from providers.failures import Garbled

MAX_LINE = 1 << 20  # bytes; a token's line is about 250
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NOT_AN_ANSWER = "The model's provider sent something that is not an answer"


class DataLines:
    """Bytes in, whole payloads out. Lines that are not `data:` are dropped."""

    def __init__(self) -> None:
        self._rest = b""
        self._idle = 0
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes. A character cut in two stays whole: only whole lines are decoded.

        Raises Garbled if a line, or the noise since the last payload, grows past MAX_LINE.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines and not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(BYTE_ORDER_MARK)
        payloads = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        self._idle = 0 if payloads else self._idle + len(data)
        if self._idle > MAX_LINE or len(self._rest) > MAX_LINE:
            raise Garbled(NOT_AN_ANSWER)
        return payloads
