"""What the storm of ``load.py`` does with one connection of each driver.

An answer is checked wherever there is one: it has to repeat the nonce of its question, and to come from outside of any
transaction but the user's own. A transaction is begun and ended by hand, so that an interruption leaves it open.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = [
    "Aiosqlite",
    "AsyncSSH",
    "Asyncpg",
    "Driver",
    "Psycopg",
    "Redis",
    "SQLAlchemy",
    "SharedSSH",
    "WrongAnswer",
]


class WrongAnswer(Exception):
    """The connection was not clean when it was handed out."""


def expect(answer: object, wanted: object) -> None:
    if answer != wanted:
        raise WrongAnswer(f"asked for {wanted!r}, got {answer!r}")


class Driver(abc.ABC):
    """The operations, on a connection of one driver."""

    def excused(self, error: str) -> bool:
        """Whether users disturb each other with this error, the pool having no part in it."""
        return False

    @abc.abstractmethod
    async def echo(self, connection: Any, nonce: str) -> None:
        """A quick question."""

    @abc.abstractmethod
    async def slow(self, connection: Any, nonce: str, seconds: float) -> None:
        """A question whose answer takes a while."""

    @abc.abstractmethod
    async def transaction(self, connection: Any, nonce: str, seconds: float) -> None:
        """Something with a middle in which the connection is nobody else's."""


class Asyncpg(Driver):
    ECHO = "SELECT $1::text, current_setting('storm.owner', true)"
    OWN = "SELECT set_config('storm.owner', $1, true)"

    async def echo(self, connection: Any, nonce: str) -> None:
        answer, owner = await connection.fetchrow(self.ECHO, nonce)
        expect((answer, owner or ""), (nonce, ""))

    async def slow(self, connection: Any, nonce: str, seconds: float) -> None:
        expect(await connection.fetchval("SELECT $1::text FROM pg_sleep($2)", nonce, seconds), nonce)
        await self.echo(connection, nonce)

    async def transaction(self, connection: Any, nonce: str, seconds: float) -> None:
        await self.echo(connection, nonce)
        await connection.execute("BEGIN")
        await connection.fetchval(self.OWN, nonce)
        await connection.fetchval("SELECT pg_sleep($1)", seconds)
        expect(await connection.fetchval("SELECT current_setting('storm.owner', true)"), nonce)
        await connection.execute("COMMIT")


class Psycopg(Driver):
    """Its connections begin a transaction with the first query; the block of a pool commits it."""

    async def row(self, connection: Any, query: str, *values: object) -> Any:
        return await (await connection.execute(query, values)).fetchone()

    async def echo(self, connection: Any, nonce: str) -> None:
        answer, owner = await self.row(connection, "SELECT %s::text, current_setting('storm.owner', true)", nonce)
        expect((answer, owner or ""), (nonce, ""))

    async def slow(self, connection: Any, nonce: str, seconds: float) -> None:
        (answer,) = await self.row(connection, "SELECT %s::text FROM pg_sleep(%s)", nonce, seconds)
        expect(answer, nonce)
        await self.echo(connection, nonce)

    async def transaction(self, connection: Any, nonce: str, seconds: float) -> None:
        await self.echo(connection, nonce)
        await self.row(connection, "SELECT set_config('storm.owner', %s, true)", nonce)
        await self.row(connection, "SELECT pg_sleep(%s)", seconds)
        (owner,) = await self.row(connection, "SELECT current_setting('storm.owner', true)")
        expect(owner, nonce)
        await connection.commit()


class SQLAlchemy(Psycopg):
    """An AsyncConnection over asyncpg; it too begins by itself, and its block rolls back."""

    async def row(self, connection: Any, query: str, *values: object) -> Any:
        from sqlalchemy import text  # noqa: PLC0415

        names = [f"v{index}" for index in range(len(values))]
        for name, value in zip(names, values, strict=True):
            kind = "text" if isinstance(value, str) else "float"
            query = query.replace("%s::text", "%s", 1).replace("%s", f"CAST(:{name} AS {kind})", 1)
        return (await connection.execute(text(query), dict(zip(names, values, strict=True)))).fetchone()


class Redis(Driver):
    """A client: of one connection, or over a pool, where each command takes a connection and a pipeline keeps one."""

    async def echo(self, connection: Any, nonce: str) -> None:
        expect(await connection.execute_command("ECHO", nonce), nonce.encode())

    async def slow(self, connection: Any, nonce: str, seconds: float) -> None:
        expect(await connection.execute_command("BLPOP", "storm.nothing", seconds), None)
        await self.echo(connection, nonce)

    async def transaction(self, connection: Any, nonce: str, seconds: float) -> None:
        async with connection.pipeline(transaction=True) as pipeline:
            await pipeline.watch("storm.nothing")
            expect(await pipeline.echo(nonce), nonce.encode())
            await asyncio.sleep(seconds)
            pipeline.multi()
            pipeline.echo(nonce)
            expect(await pipeline.execute(), [nonce.encode()])


class AsyncSSH(Driver):
    """Each command is a channel of its own."""

    async def run(self, connection: Any, command: str, nonce: str) -> None:
        done = await connection.run(command, check=True)
        if done.exit_status is None:  # asyncssh raises nothing when the connection is lost in the middle of a command
            raise ConnectionError("the connection was lost")
        expect(done.stdout.strip(), nonce)

    async def echo(self, connection: Any, nonce: str) -> None:
        await self.run(connection, f"echo {nonce}", nonce)

    async def slow(self, connection: Any, nonce: str, seconds: float) -> None:
        await self.run(connection, f"sleep {seconds:.3f}; echo {nonce}", nonce)

    async def transaction(self, connection: Any, nonce: str, seconds: float) -> None:
        async with connection.create_process("cat") as process:
            for line in (f"{nonce}\n", f"{nonce}.\n"):
                process.stdin.write(line)
                answer = await process.stdout.readline()
                if not answer:
                    raise ConnectionError("the connection was lost")
                expect(answer, line)
                await asyncio.sleep(seconds / 2)
            process.stdin.write_eof()


class SharedSSH(AsyncSSH):
    """Commands by a ``run`` that leaves no session behind; a session kept for long is not for a shared connection."""

    def __init__(self, run: Callable[..., Awaitable[Any]]) -> None:
        self.command = run

    async def run(self, connection: Any, command: str, nonce: str) -> None:
        done = await self.command(connection, command, check=True)
        if done.exit_status is None:
            raise ConnectionError("the connection was lost")
        expect(done.stdout.strip(), nonce)

    async def transaction(self, connection: Any, nonce: str, seconds: float) -> None:
        for each in (nonce, f"{nonce}."):
            await self.slow(connection, each, seconds / 2)


class Aiosqlite(Driver):
    """A transaction left open keeps everybody else from writing."""

    BUSY = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT count(*), ? FROM n"

    def excused(self, error: str) -> bool:
        return "database is locked" in error  # only one writes at a time

    async def row(self, connection: Any, query: str, *values: object) -> Any:
        async with connection.execute(query, values) as cursor:
            return await cursor.fetchone()

    async def echo(self, connection: Any, nonce: str) -> None:
        answer = await self.row(connection, "SELECT ?, (SELECT count(*) FROM storm)", nonce)
        expect(answer, (nonce, 0))  # a row that can be seen is of a transaction that nobody ended

    async def slow(self, connection: Any, nonce: str, seconds: float) -> None:
        steps = round(seconds * 1e6)
        expect(await self.row(connection, self.BUSY, steps, nonce), (steps, nonce))

    async def transaction(self, connection: Any, nonce: str, seconds: float) -> None:
        await self.echo(connection, nonce)
        await self.row(connection, "BEGIN IMMEDIATE")
        await self.row(connection, "INSERT INTO storm VALUES (?)", nonce)
        await asyncio.sleep(seconds / 4)
        expect(await self.row(connection, "SELECT owner FROM storm"), (nonce,))
        await self.row(connection, "ROLLBACK")
