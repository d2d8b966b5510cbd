"""Asking a provider of identities: bounds on its answers, and its failures as ours, in one place."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from errors import BadUserInput, Unavailable

logger = logging.getLogger(__name__)

SECONDS = 10
"""For each step of one question."""
WHOLE_SECONDS = 30
"""For all questions of one step of a sign-in: an answer may come byte by byte, and nobody else ends its callback."""
MAX_ANSWER_BYTES = 256 * 1024
"""Google's key set has 3 KB, a GitHub profile 2 KB, a hundred e-mail addresses 10 KB."""
STALE = frozenset({"invalid_grant", "bad_verification_code"})
"""What providers say of a code that is old, was used, or is another's: the browser has to begin again."""
MISCONFIGURED = frozenset(
    {"incorrect_client_credentials", "invalid_client", "unauthorized_client", "redirect_uri_mismatch"}
)


MAX_LABEL_CHARS = 254
MAX_SUBJECT_CHARS = 255
"""OpenID Connect's, in ASCII."""


@dataclass(frozen=True, slots=True)
class Application:
    """What the operator has registered at the provider."""

    client_id: str
    client_secret: str


@dataclass(frozen=True, slots=True)
class Pass:
    """What belongs to one way there and back. All but `callback`, where the browser is sent back to, is random, and
    known to nobody but this server: the browser has it sealed."""

    state: str
    verifier: str
    nonce: str
    callback: str


@dataclass(frozen=True, slots=True)
class Person:
    """Who came back. `subject` never changes; `email` is None unless the provider has verified it; `name` is a proposal
    for a username; `label` is what people know this account by."""

    provider: str
    subject: str
    email: str | None
    name: str
    label: str

    @property
    def shown(self) -> str:
        return "".join(letter for letter in self.label if letter.isprintable())[:MAX_LABEL_CHARS]


class Provider(Protocol):
    name: str
    title: str

    async def address(self, through: Pass) -> str:
        """Where the browser is to go."""

    async def person(self, code: str, through: Pass) -> Person:
        """Who has come back with this code.

        Raises:
            BadUserInput: the code is old, or not for this pass.
            Unavailable: the provider does not answer as it should.
        """


class _Bounded(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            # Not asked for; its bytes say nothing of how many they would become.
            await response.aclose()
            raise httpx2.DecodingError("compressed")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Cut(response.stream)
        return response


class _Cut(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ANSWER_BYTES
        async for data in self._stream:
            left -= len(data)
            if left < 0:
                raise httpx2.DecodingError(f"longer than {MAX_ANSWER_BYTES} bytes")
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()


class Asking:
    """Makes clients for one provider. The trust store is read once: that takes longer than all the rest."""

    def __init__(self, application: Application, scope: str) -> None:
        self._application = application
        self._scope = scope
        self._trusted = ssl.create_default_context()

    def client(self, through: Pass | None = None) -> AsyncOAuth2Client:
        """A client for one way there and back; to be used as a context."""
        return AsyncOAuth2Client(
            client_id=self._application.client_id,
            client_secret=self._application.client_secret,
            token_endpoint_auth_method="client_secret_post",  # noqa: S106
            scope=self._scope,
            redirect_uri=None if through is None else through.callback,
            code_challenge_method="S256",
            transport=_Bounded(verify=self._trusted),
            timeout=SECONDS,
            headers={"Accept-Encoding": "identity", "User-Agent": "ai-chat-studio"},
        )


@asynccontextmanager
async def translated(title: str) -> AsyncIterator[None]:
    """A provider's failure as ours, and its slowness. Neither its text nor what it was asked with reaches anybody."""
    try:
        async with asyncio.timeout(WHOLE_SECONDS):
            yield
    except OAuthError as error:
        word = _word(error.error)
        logger.warning("%s refused a sign-in: %s", title, word)
        if word in STALE:
            raise BadUserInput(f"This sign-in at {title} is over; begin again") from None
        if word in MISCONFIGURED:
            raise Unavailable(f"{title} refuses this server; tell the operator") from error
        raise Unavailable(f"{title} does not answer as it should; try again later") from error
    except Exception as error:
        # Of whatever type: JSON of a shape that they did not foresee makes the libraries raise TypeError and others.
        logger.warning("%s cannot be asked: %s", title, type(error).__name__)
        raise Unavailable(f"{title} does not answer as it should; try again later") from error


def _word(value: Any) -> str:
    """A provider's error code, as far as it is one."""
    text = value[:64] if isinstance(value, str) else ""
    return text if text.isascii() and text.replace("_", "").isalnum() else "?"


async def fetched(client: AsyncOAuth2Client, url: str, **headers: str) -> Any:
    """The JSON at this address.

    Raises:
        httpx2.HTTPError, ValueError
    """
    sent = {"Accept": "application/json"} | headers
    answer = await client.request("GET", url, headers=sent, withhold_token=not client.token)
    answer.raise_for_status()
    return answer.json()


def subject_of(value: Any) -> str:
    """A provider's name of an account, as it may be stored.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SUBJECT_CHARS:
        raise ValueError("the subject is no text of 1 to 255 characters")
    if not value.isascii() or not value.isprintable():
        raise ValueError("the subject has characters that no subject has")
    return value


def text_in(found: Any, name: str) -> str:
    """What stands under this name.

    Raises:
        ValueError: nothing, or no text.
    """
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"the answer has no {name}")
    return value
