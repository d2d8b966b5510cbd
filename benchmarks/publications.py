"""What a publication costs Redis, as the bus makes them: `python -m benchmarks.publications`.

Messages of 300 bytes, 64 sent at once, one subscriber; processor time is the server's own figure."""

import asyncio

from redis.asyncio import Redis

from tests.redises import redis_server

MESSAGES, AT_ONCE, BYTES = 64_000, 64, 300


async def measure(url: str) -> float:
    """Microseconds of the server's processor time for one message, sent and handed on."""
    async with Redis.from_url(url) as sender, Redis.from_url(url) as receiver, receiver.pubsub() as channel:
        await channel.subscribe("c")
        await channel.get_message(timeout=5)

        async def read() -> None:
            for _ in range(MESSAGES):
                while await channel.get_message(ignore_subscribe_messages=True, timeout=5) is None:
                    pass

        reading = asyncio.create_task(read())
        before = await _spent(sender)
        for _ in range(0, MESSAGES, AT_ONCE):
            pipe = sender.pipeline(transaction=False)
            for _ in range(AT_ONCE):
                pipe.publish("c", b"x" * BYTES)
            await pipe.execute()
            await asyncio.sleep(0)
        await reading
        return 1e6 * (await _spent(sender) - before) / MESSAGES


async def _spent(client: Redis) -> float:
    told = await client.info("cpu")
    return float(told["used_cpu_sys"]) + float(told["used_cpu_user"])


def main() -> None:
    with redis_server() as server:
        print(f"one publication, in Redis, µs: {asyncio.run(measure(server.url)):.1f}")


if __name__ == "__main__":
    main()
