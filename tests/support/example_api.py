"""Runs the rehearsal of ``examples/api`` on servers of its own: what ``make example-api`` does."""

from __future__ import annotations

import sys

import debian
from api import demo

import loopwright
from support.servers import Servers


def main() -> int:
    if absent := debian.missing():
        print(f"this needs {', '.join(absent)}: install {', '.join(absent.values())}")
        return 1
    with Servers() as servers, servers.one("postgres") as postgres, servers.one("redis") as redis:
        return loopwright.run(lambda: demo.main(postgres.dsn, redis.url, rate=200, pause=4))


if __name__ == "__main__":
    sys.exit(main())
