"""offload(on="process"): worker processes that can be killed, and whose deaths harm nobody else."""

from __future__ import annotations

import array
import asyncio
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.loops import Cell, run

from loopwright import OffloadTimeout, RemoteError, WorkerLost, bind, bound, offload, offloaded, offloading

pytestmark = pytest.mark.default_only

ENOUGH = 60.0
"""Seconds that no wait of these tests takes."""


async def turns_until(condition: Any) -> None:
    for _ in range(int(ENOUGH * 1000)):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"{offload.stats()} after {ENOUGH} s")


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# What the workers do


def write_pid_and_sleep(path: str) -> None:
    Path(path + ".new").write_text(str(os.getpid()))
    Path(path + ".new").rename(path)
    time.sleep(ENOUGH)


def start_child_and_sleep(path: str) -> None:
    child = subprocess.Popen(["sleep", str(ENOUGH)])
    Path(path + ".new").write_text(str(child.pid))
    Path(path + ".new").rename(path)
    time.sleep(ENOUGH)


def fail(text: str) -> None:
    raise LookupError(text)


class Stubborn(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("stubborn")


def fail_stubbornly() -> None:
    raise Stubborn(1, 2)


def length(data: Any) -> tuple[int, int]:
    return len(memoryview(data).cast("B")), os.getpid()


class Buffer:
    """What numpy's arrays do: the data goes beside the pickle."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Buffer, (pickle.PickleBuffer(self.data),)


def doubled(buffer: Buffer) -> Buffer:
    view = memoryview(buffer.data).cast("B")
    view[0] += 1  # In place: what arrives is the worker's own.
    return buffer


@offloaded(on="process", limit=1)
def twice(n: int) -> int:
    return 2 * n


def who() -> Any:
    return bound()


def unpicklable() -> Any:
    return lambda: None


# The tests


def test_bound_fields_go_along() -> None:
    async def main() -> None:
        with bind(request=7):
            assert await offload(who, on="process") == {"request": 7}
        assert await offload(who, on="process") == {}

    run(main)


def test_results_errors_and_the_worker_that_is_used_again(cell: Cell) -> None:
    async def main() -> None:
        first = await offload(os.getpid, on="process")
        assert first != os.getpid()
        assert await offload(divmod, 7, 2, on="process") == (3, 1)
        with pytest.raises(LookupError, match="words") as caught:
            await offload(fail, "words", on="process")
        assert isinstance(caught.value.__cause__, RemoteError)
        assert "in fail" in str(caught.value.__cause__)
        assert await offload(os.getpid, on="process") == first
        assert await twice(4) == 8

    run(main, cell)


def test_what_cannot_be_pickled_says_so_and_the_worker_lives() -> None:
    async def main() -> None:
        before = await offload(os.getpid, on="process")
        with pytest.raises((pickle.PicklingError, AttributeError)):
            await offload(lambda: 1, on="process")
        with pytest.raises((pickle.PicklingError, AttributeError)) as caught:
            await offload(unpicklable, on="process")
        assert "pickled the result" in "".join(caught.value.__notes__)
        with pytest.raises(RemoteError, match="stubborn"):
            await offload(fail_stubbornly, on="process")
        assert await offload(os.getpid, on="process") == before

    run(main)


@pytest.mark.parametrize("size", [0, 1000, 1 << 20, 5_000_001])
def test_data_of_every_size_travels(size: int) -> None:
    async def main() -> None:
        data = os.urandom(size)
        assert (await offload(length, data, on="process"))[0] == size
        assert (await offload(length, array.array("b", data), on="process"))[0] == size
        assert await offload(bytes, data, on="process") == data
        if size:
            back = await offload(doubled, Buffer(bytearray(data)), on="process")
            expected = bytearray(data)
            expected[0] = (expected[0] + 1) % 256 if data[0] < 255 else 0
            assert data[0] == 255 or bytes(back.data) == bytes(expected)

    run(main)


def test_a_cancel_kills_the_worker_and_harms_no_other(cell: Cell, tmp_path: Path) -> None:
    async def main() -> None:
        offload.limits(processes=2)
        before = offload.stats()
        path = tmp_path / "pid"
        task = asyncio.create_task(offload(write_pid_and_sleep, str(path), on="process"))
        await turns_until(path.exists)
        other = asyncio.create_task(offload(sum, range(10), on="process"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await other == 45
        await turns_until(lambda: gone(int(path.read_text())))
        await turns_until(lambda: offload.stats().abandoned == 0)
        assert offload.stats().workers_killed - before.workers_killed == 1
        assert await offload(abs, -1, on="process") == 1

    run(main, cell)


def test_what_a_killed_worker_has_started_dies_too(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "pid"
        task = asyncio.create_task(offload(start_child_and_sleep, str(path), on="process"))
        await turns_until(path.exists)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await turns_until(lambda: gone(int(path.read_text())))

    run(main)


def test_a_timeout_kills_the_worker(tmp_path: Path) -> None:
    async def main() -> None:
        await offload(abs, -1, on="process")
        path = tmp_path / "pid"
        with pytest.raises(OffloadTimeout, match="its worker is killed"):
            await offload(write_pid_and_sleep, str(path), on="process", timeout=0.2)
        await turns_until(lambda: offload.stats().abandoned == 0)
        assert not path.exists() or gone(int(path.read_text()))

    run(main)


def test_a_worker_that_dies_fails_its_own_call_only(cell: Cell) -> None:
    async def main() -> None:
        offload.limits(processes=2)
        deaths = [offload(os._exit, 7, on="process"), offload(os.kill, 0, signal.SIGKILL, on="process")]
        answers = await asyncio.gather(
            *deaths, *(offload(abs, -i, on="process") for i in range(6)), return_exceptions=True
        )
        assert [type(answer) for answer in answers[:2]] == [WorkerLost] * 2
        assert "exit code 7" in str(answers[0])
        assert answers[2:] == list(range(6))

    run(main, cell)


def test_a_worker_that_died_while_it_rested_is_replaced() -> None:
    async def main() -> None:
        pid = await offload(os.getpid, on="process")
        os.kill(pid, signal.SIGKILL)
        await turns_until(lambda: gone(pid))
        assert await offload(os.getpid, on="process") != pid

    run(main)


def test_no_more_workers_than_allowed() -> None:
    async def main() -> None:
        offload.limits(processes=1)
        most = 0

        async def watched() -> int:
            nonlocal most
            pid = await offload(os.getpid, on="process")
            most = max(most, offload.stats().processes)
            return pid

        pids = await asyncio.gather(*(watched() for _ in range(10)))
        assert len(set(pids)) == 1

    try:
        run(main)
    finally:
        offload.limits(processes=offloading._processors())


PROGRAM = """
import asyncio, os, sys, time
from loopwright import offload
def sleep(path):
    with open(path, "a") as file: file.write(f"{os.getpid()}\\n")
    time.sleep(600)
async def main():
    await offload(abs, -1, on="process")
    task = asyncio.create_task(offload(sleep, sys.argv[1], on="process"))
    while not os.path.exists(sys.argv[1]): await asyncio.sleep(0.01)
    print("running", flush=True)
    if sys.argv[2] == "stay": await task
if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["leave", "kill"])
def test_no_worker_outlives_the_program(end: str, tmp_path: Path) -> None:
    program, path = tmp_path / "program.py", tmp_path / "pids"
    program.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(program), str(path), "stay" if end == "kill" else end], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        if end == "kill":
            process.kill()
        assert process.wait(ENOUGH) == (-signal.SIGKILL if end == "kill" else 0)
    (pid,) = map(int, path.read_text().split())
    until = time.monotonic() + ENOUGH
    while not gone(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert gone(pid)


def test_a_main_module_without_a_guard_is_told_so(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio\nfrom loopwright import offload\n"
        "async def main(): print(await offload(abs, -1, on='process'))\nasyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=ENOUGH, check=False)
    assert "WorkerLost" in ended.stderr
    assert "if __name__ == '__main__'" in ended.stderr
