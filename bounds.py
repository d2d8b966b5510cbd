"""What the settings mean to each part: values, handed down."""

from auth.sessions import SessionLimits
from auth.throttle import NO_LIMITS, ThrottleLimits
from chat.attempts import RetryLimits
from chat.generation import GenerationLimits
from chat.inputs import InputLimits
from chat.jobs import EngineLimits
from graph.shape import QueryLimits
from models.postgres import PoolLimits
from services import WebLimits, WebSettings
from settings import Settings
from traffic import TrafficLimits


def engine_limits(settings: Settings) -> EngineLimits:
    return EngineLimits(
        generation=GenerationLimits(
            first_token=settings.first_token_seconds,
            next_token=settings.next_token_seconds,
            whole=settings.run_seconds,
            chars=settings.run_chars,
            coalesce=settings.coalesce_seconds,
            retry=RetryLimits(settings.retries, settings.retry_seconds),
        ),
        per_process=settings.runs_per_process,
        per_user=settings.runs_per_user,
        per_minute=settings.runs_per_minute if settings.rate_limits else None,
        queue=settings.run_queue,
        keep=settings.run_keep_seconds,
        chat_grace=settings.chat_grace_seconds,
        chat_key=settings.chat_key_seconds,
        lease=settings.lease_seconds,
        shutdown_grace=settings.shutdown_grace_seconds,
        counted=settings.rate_limits,
    )


def query_limits(settings: Settings) -> QueryLimits:
    return QueryLimits(
        tokens=settings.max_query_tokens,
        chars=settings.max_query_chars,
        depth=settings.max_query_depth,
        aliases=settings.max_query_aliases,
        roots=settings.max_query_roots,
        directives=settings.max_query_directives,
    )


def pool_limits(settings: Settings) -> PoolLimits:
    return PoolLimits(
        size=settings.database_pool_size,
        overflow=settings.database_max_overflow,
        seconds=settings.database_seconds,
    )


def input_limits(settings: Settings) -> InputLimits:
    return InputLimits(
        message=settings.max_message_chars,
        system_prompt=settings.max_system_prompt_chars,
        title=settings.max_title_chars,
        conversation_messages=settings.max_conversation_messages,
        chat_messages=settings.max_chat_messages,
        conversations=settings.max_conversations,
    )


def web_limits(settings: Settings) -> WebLimits:
    return WebLimits(
        frame=settings.max_frame_bytes,
        json_values=settings.max_json_values,
        send_timeout=settings.send_timeout_seconds,
        init_timeout=settings.socket_init_seconds,
        operations_per_socket=settings.operations_per_socket,
        frames_per_minute=settings.socket_frames_per_minute if settings.rate_limits else None,
        graph_frames_per_minute=settings.graphql_frames_per_minute if settings.rate_limits else None,
        guest_max_tokens=settings.guest_max_tokens,
        counted=settings.rate_limits,
    )


def web_settings(settings: Settings) -> WebSettings:
    return WebSettings(
        origins=settings.allowed_origins,
        legacy_socket=settings.legacy_socket,
        public_url=settings.public_url,
        frontend=settings.frontend or "/",
    )


def traffic_limits(settings: Settings) -> TrafficLimits:
    if not settings.rate_limits:
        return TrafficLimits(None, None, None, None, None, None, None)
    return TrafficLimits(
        sockets=settings.sockets,
        guest_sockets=settings.guest_sockets,
        user_sockets=settings.user_sockets,
        address_sockets=settings.address_sockets,
        user_operations=settings.operations_per_minute,
        address_operations=settings.address_operations_per_minute,
        guest_chats=settings.guest_chats_per_minute,
    )


def throttle_limits(settings: Settings) -> ThrottleLimits:
    if not settings.rate_limits:
        return NO_LIMITS
    return ThrottleLimits(
        account_logins=settings.logins_per_minute,
        address_logins=settings.address_logins_per_minute,
        address_registrations=settings.address_registrations_per_minute,
        wrong_codes=settings.wrong_codes_per_day,
    )


def session_limits(settings: Settings) -> SessionLimits:
    access = settings.access_token_expire_minutes * 60
    return SessionLimits(
        idle=max(settings.session_idle_seconds, access + 1),
        absolute=max(settings.session_seconds, access + 1),
        per_user=settings.sessions_per_user if settings.rate_limits else None,
        grace=settings.refresh_grace_seconds,
    )
