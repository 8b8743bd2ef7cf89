"""Child processes: the CPU time of the parent, and its memory.

The peers are what people write: ``asyncio.create_subprocess_exec`` with ``communicate``, and ``anyio.run_process``.
Both keep all of the output, so memory is measured too.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

import harness

import loopwright

MEGABYTE = 1 << 20
FLOOD = 64 * MEGABYTE


async def communicate(*command: str) -> bytes:
    """asyncio, as in its documentation."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    stdout, _ = await process.communicate()
    return stdout


async def anyio_run(*command: str) -> bytes:
    """anyio."""
    import anyio  # noqa: PLC0415 (a peer, not ours)

    return (await anyio.run_process(command, stdin=subprocess.DEVNULL)).stdout


async def ours(*command: str) -> bytes:
    """run_process."""
    return (await loopwright.run_process(*command)).stdout


async def asyncio_lines(*command: str) -> int:
    """asyncio's ``readline``, with the output of errors thrown away, so that nothing deadlocks."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    count = 0
    async for _ in process.stdout:
        count += 1
    await process.wait()
    return count


async def our_lines(*command: str) -> int:
    """stream_lines, as bytes like the other."""
    count = 0
    async with loopwright.stream_lines(*command, text=False) as lines:
        async for _ in lines:
            count += 1
    return count


PEERS = {"asyncio": communicate, "anyio": anyio_run, "loopwright": ours}


def small(run: object) -> harness.Case:
    async def case(n: int) -> None:
        for _ in range(n):
            await run("echo", "x")  # type: ignore[operator]

    return case


def flood(run: object, *command: str) -> harness.Case:
    async def case(n: int) -> None:
        for _ in range(n):
            await run(*command)  # type: ignore[operator]

    return case


def extra_memory(case: str) -> float:
    """Peak RSS, in MB, that one flood adds to a fresh interpreter."""
    out = subprocess.run([sys.executable, __file__, "--memory", case], capture_output=True, check=True, text=True)
    return float(out.stdout)


def main() -> None:
    """Prints the rows; writes them to the file named by the first argument."""
    rows = []
    head = ("head", "-c", str(FLOOD), "/dev/zero")
    numbers = ("seq", "200000")
    for loop_name, loop_factory in harness.loops().items():
        common = {"loop_factory": loop_factory, "loop_name": loop_name}
        rows += [
            harness.compare("run echo", {name: small(run) for name, run in PEERS.items()}, n=20, rounds=9, **common),
            harness.compare(
                "64 MB of output", {name: flood(run, *head) for name, run in PEERS.items()}, n=1, rounds=7, **common
            ),
            harness.compare(
                "2e5 lines",
                {"asyncio": flood(asyncio_lines, *numbers), "loopwright": flood(our_lines, *numbers)},
                n=1,
                rounds=7,
                **common,
            ),
        ]
    print(f"extra peak RSS of {FLOOD // MEGABYTE} MB of output, MB")
    for case in PEERS:
        print(f"    {case:<28} {extra_memory(case):6.1f}", flush=True)
    harness.save(rows)


def peak_kb() -> int:
    """This process's peak RSS."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def measure_memory(case: str) -> None:
    """Prints what one run adds to this process's peak."""

    async def measured() -> None:
        await PEERS[case]("echo")
        before = peak_kb()
        await PEERS[case]("head", "-c", str(FLOOD), "/dev/zero")
        print((peak_kb() - before) / 1024)

    asyncio.run(measured())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2])
    else:
        main()
