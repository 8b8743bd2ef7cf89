"""Runs the storm of ``load.py`` on one pool or on all of them, and writes the table that comes of it.

``PYTHONPATH=tests:tools python -m support.storms asyncpg asyncpg-pool`` prints verdicts, ``--write
docs/pools-peers.md`` makes the page, with a storm as long as that of ``make stress``.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib.metadata
import logging
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path

from support.load import FileSite, Plan, ServerSite, Subject, Verdict, storm
from support.ours import OURS
from support.peers import PEERS
from support.proxy import Proxy
from support.servers import Servers

__all__ = ["in_storm"]

LONG = Plan(seconds=30.0, stopped=5.0, silent=3.0)
COLUMNS = (
    "pool",
    "operations",
    "cancels",
    "cancels swallowed",
    "wrong answers",
    "innocent errors",
    "stuck",
    "in use by nobody",
    "open: pool / server",
    "left by close",
    "shrunk by",
    "most at a time",
    "back after kill",
    "after SIGSTOP",
    "after silence",
)
PAGE = """# Pools of drivers in one storm

Written by `{command}`; do not edit. {date}, CPython {python}, {machine},
load average {load}.

{tasks} tasks use a pool of {max_size} connections (and {burst} more in a burst, where a pool can) for {seconds} s, on a
real server: PostgreSQL, Redis and OpenSSH of Debian 12, behind a proxy on loopback. {rate} cancels a second hit tasks
at random, half of them those that have a connection. Two operations in five have a timeout around everything, or one
around a query only that is swallowed inside of the block, nearly half of these in a transaction. Everything done with a
connection gets {deadline} s, every pool lets its users wait for {timeout} s at most. In the middle the server is killed
and started again after {down} s, stopped for {stopped} s (SIGSTOP), and a firewall goes silent for {silent} s: who is
connected then never hears anything again, not even that the connection is gone. SSH, where a login and a command cost
much more, gets {ssh.max_size} connections, {ssh.cancels_per_second:g} cancels a second, slower tasks and three times
the deadline.

| {header} |
|{rule}|
{rows}

What the columns say, for the time when nobody is there any more unless they say otherwise:

* **wrong answers**: every query carries a nonce and asks who owns the transaction; this was another's. An answer that
  nobody read, or a transaction that nobody ended, was on the connection when it was handed out.
* **innocent errors**: operations that failed although nobody interrupted them and the server was well.
* **stuck**: operations that outlasted every timeout together. **in use by nobody**: what the pool counts as taken.
* **open**: what the pool counts, and what the server does (`pg_stat_activity`, `CLIENT LIST`, the children of sshd).
* **shrunk by**: how many connections of {max_size} cannot be had at once, within the timeout.
* **most at a time**: counted by the proxy, over the whole storm, and what the pool was told.
* **back after**: seconds from the end of the disturbance until work goes on without errors; never: not within 10 s.

How each is set up is in `tests/support/peers.py` and `tests/support/ours.py`: as its documentation advises for a server
that may go away, with its own timeouts, checks and resets. The storm itself is `tests/support/load.py`. A pool that has
no reset, no deadline on its reset, or no way to see an interruption that was swallowed cannot be clean here; that it is
used well by its own rules is another question. Machines differ, and so do runs: counts of errors are orders of
magnitude.

Versions: {versions}.
"""


def in_storm(subject: Subject, servers: Servers, plan: Plan) -> Verdict:
    """One pool against its server, behind a proxy, in a loop of its own."""
    if subject.server == "file":
        with tempfile.TemporaryDirectory() as directory:
            return asyncio.run(storm(subject, FileSite(Path(directory, "storm.db").resolve()), plan))
    with servers.one(subject.server) as server, Proxy(server.host, server.port) as proxy:
        return asyncio.run(storm(subject, ServerSite(server, proxy), plan))


def row(verdict: Verdict) -> str:
    recovery = ["never" if took is None else f"{took:.1f} s" for took in verdict.recovery.values()]
    cells = [
        verdict.pool,
        f"{verdict.operations:,}",
        f"{verdict.cancels:,}",
        verdict.swallowed,
        f"{verdict.wrong:,}",
        f"{verdict.innocent.total():,}",
        verdict.stuck,
        verdict.in_use,
        f"{verdict.pool_says} / {verdict.server_says}",
        verdict.left,
        verdict.shrunk,
        f"{verdict.peak} of {verdict.limit}",
        *recovery,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def page(verdicts: Sequence[Verdict], packages: set[str], plan: Plan) -> str:
    return PAGE.format(
        command="PYTHONPATH=tests:tools python -m support.storms --write docs/pools-peers.md",
        date=datetime.date.today(),
        python=platform.python_version(),
        machine=f"{platform.system()} with {os.cpu_count()} cores",
        load=round(os.getloadavg()[2]),
        ssh=plan.for_ssh(),
        header=" | ".join(COLUMNS),
        rule="|".join(["---"] * len(COLUMNS)),
        rows="\n".join(map(row, verdicts)),
        versions=", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(packages)),
        rate=f"{plan.cancels_per_second:g}",
        **{name: f"{getattr(plan, name):g}" for name in plan.__slots__ if name != "cancels_per_second"},
    )


def main() -> None:
    subjects = {**OURS, **PEERS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", metavar="POOL", help=", ".join(subjects))
    parser.add_argument("--write", type=Path, help="the page with the table")
    parser.add_argument("--long", action="store_true", help="a storm as long as that of make stress")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    plan = LONG if arguments.long or arguments.write else Plan(seed=arguments.seed)
    logging.disable()  # what drivers and the loop say about errors that the verdict counts
    verdicts, packages = [], set()
    with Servers() as servers:
        for name in arguments.pools or [name for name in subjects if name != "aiosqlite"]:
            subject = subjects[name]()
            verdicts.append(in_storm(subject, servers, plan))
            packages |= set(subject.packages)
            print(row(verdicts[-1]), flush=True)
            for fault in verdicts[-1].faults():
                print(f"    {fault}")
            print(f"    errors seen: {dict(verdicts[-1].errors.most_common(6))}", flush=True)
    if arguments.write:
        arguments.write.write_text(page(verdicts, packages, plan))


if __name__ == "__main__":
    main()
