"""The command ``loopwright``, also as ``python -m loopwright``."""

from __future__ import annotations

import sys
from typing import cast

from loopwright._launch import analyser
from loopwright._launch.command import RunOptions, launch
from loopwright._loopwright import _parse_args

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Parses ``argv`` (``sys.argv[1:]`` by default), does what it says and returns the exit code."""
    command, fields = _parse_args(sys.argv[1:] if argv is None else argv)
    if command == "print":
        print(fields["text"], end="", file=sys.stderr if fields["to_stderr"] else sys.stdout)
        return cast(int, fields["code"])
    if command == "check":
        return analyser.run(fields["arguments"])
    return launch(cast(RunOptions, fields))


if __name__ == "__main__":
    sys.exit(main())
