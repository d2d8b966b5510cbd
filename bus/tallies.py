"""What processes count, added up in Redis.

Keys are sent as hashes: none is longer than another, and no name or address is kept there. Each script is one round
trip, and so short that nobody else waits for it (500 tallies: 1 ms of Redis's one thread).
"""

import secrets
import struct
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, cast

from redis.asyncio import Redis as Client

from bus.address import RedisAddress
from bus.base import Greeting, Seat, Tally
from bus.pool import Line

CONNECTIONS = 4
"""One exchanges tallies, one asks for places, both one thing after the other."""
DEAD_SECONDS = 5
"""Of silence: a process that says nothing for so long holds no places. It speaks every second."""
DIGEST_BYTES = 16
U32 = 2**32 - 1

GREET = """
local prefix, me, seconds, memory = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local known = redis.call('EXISTS', prefix .. 'alive:' .. me)
redis.call('DEL', prefix .. 'alive:' .. ARGV[4])
redis.call('SET', prefix .. 'alive:' .. me, 1, 'EX', seconds)
redis.call('SET', prefix .. 'memory', memory, 'NX')
redis.call('EXPIRE', prefix .. 'memory', 86400)
local now = redis.call('TIME')
return {now[1], now[2], known, redis.call('GET', prefix .. 'memory')}
"""

ADD = """
-- A hash for each minute and each first byte of a digest: 256 short ones expire without holding up the server, and a
-- flood of keys fills them up to 512,000 keys a minute (40 MB); beyond that processes count for themselves.
local prefix, answers = KEYS[1] .. 'rates:', {}
for at = 1, #ARGV[1], 24 do
  local digest = string.sub(ARGV[1], at, at + 15)
  local minute, count = struct.unpack('>I4I4', string.sub(ARGV[1], at + 16, at + 23))
  local shard = prefix .. string.byte(digest) .. ':'
  local total = redis.call('HINCRBY', shard .. minute, digest, count)
  if total == count then
    redis.call('EXPIRE', shard .. minute, 180)
    if redis.call('HLEN', shard .. minute) > 2000 then
      redis.call('HDEL', shard .. minute, digest)
    end
  end
  local before = redis.call('HGET', shard .. (minute - 1), digest) or 0
  answers[#answers + 1] = struct.pack('>I4I4', total, before)
end
return table.concat(answers)
"""

PLACE = """
-- A hash for each key: how many places each process holds. Those of the dead are struck out by whoever meets them.
local prefix, me, alive, answers = KEYS[1], ARGV[1], {}, {}
for at = 1, #ARGV[2], 24 do
  local own, most = struct.unpack('>I4I4', string.sub(ARGV[2], at + 16, at + 23))
  local key = prefix .. 'places:' .. string.sub(ARGV[2], at, at + 15)
  local held, others = redis.call('HGETALL', key), 0
  for i = 1, #held, 2 do
    local who = held[i]
    if who ~= me then
      if alive[who] == nil then
        alive[who] = redis.call('EXISTS', prefix .. 'alive:' .. who)
      end
      if alive[who] == 1 then
        others = others + held[i + 1]
      else
        redis.call('HDEL', key, who)
      end
    end
  end
  if own == 0 then
    redis.call('HDEL', key, me)
  elseif own + others <= most then
    redis.call('HSET', key, me, own)
    redis.call('EXPIRE', key, 3600)
  end
  answers[#answers + 1] = struct.pack('>I4', others)
end
return table.concat(answers)
"""


class RedisTallies:
    """Minutes are those of Redis's own clock. The places of a process are good while it greets."""

    def __init__(self, address: RedisAddress, namespace: str) -> None:
        self._line = Line(address, CONNECTIONS)
        self._redis = Client(connection_pool=self._line.pool)
        self._prefix = f"chat:{namespace}:"
        self._me = secrets.token_hex(8)

    async def greet(self, *, anew: bool = False) -> Greeting:
        """Live on, for some seconds; `anew` without any places.

        Raises:
            Away
        """
        old = self._me
        if anew:
            # What the old name still holds, nobody knows any more.
            self._me = secrets.token_hex(8)
        last = old if anew else ""
        seconds, micros, known, memory = await self._run(GREET, self._me, DEAD_SECONDS, secrets.token_hex(8), last)
        return Greeting(int(seconds) + int(micros) / 1e6, bool(known), memory.decode())

    async def add(self, tallies: Sequence[Tally]) -> list[tuple[int, int]]:
        """For each: how many there are now in that minute, and in the one before it.

        Raises:
            Away: they may have been added.
        """
        packed = b"".join(_packed(key, minute, added) for key, minute, added in tallies)
        answer = await self._run(ADD, packed)
        return cast(list[tuple[int, int]], list(struct.iter_unpack(">II", answer)))

    async def place(self, seats: Sequence[Seat]) -> list[int]:
        """For each: how many places others hold. What would be too many is not held.

        Raises:
            Away: they may be held.
        """
        packed = b"".join(_packed(key, own, U32 if most is None else most) for key, own, most in seats)
        answer = await self._run(PLACE, self._me, packed)
        return [others for (others,) in struct.iter_unpack(">I", answer)]

    async def leave(self) -> None:
        """Give back all places: whoever meets them strikes them out.

        Raises:
            Away
        """
        await self._run("return redis.call('DEL', KEYS[1] .. 'alive:' .. ARGV[1])", self._me)

    async def _run(self, script: str, *arguments: bytes | str | int) -> Any:
        # The scripts make up names of keys: a Redis Cluster would refuse that, for which the bus has no client either.
        async with self._line.turn():
            return await cast(Any, self._redis.eval(script, 1, self._prefix, *cast(Any, arguments)))

    async def aclose(self) -> None:
        await self._line.aclose()


def _packed(key: str, one: int, other: int) -> bytes:
    digest = blake2b(key.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest()
    return digest + struct.pack(">II", one, other)
