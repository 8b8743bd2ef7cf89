"""DESIGN rule 8: tools that look into another process see every frame of the user's, whatever drives or blocks it.

``python -m asyncio pstree PID`` walks the tasks that wait; ``py-spy dump --pid PID`` the threads that run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support import requires

WAITING = """
import asyncio
from loopwright import *

async def hold(): await asyncio.sleep(600)
async def in_semaphore(): await semaphore.acquire()
async def in_async_with():
    async with semaphore: pass
async def in_lock(): await lock.acquire()
async def in_event(): await Event().wait()
async def in_get(): await Queue().get()
async def in_for():
    async for _ in Queue(): pass
async def in_put():
    queue = Queue(1)
    queue.put_nowait(1)
    await queue.put(2)
async def in_join():
    queue = Queue()
    queue.put_nowait(1)
    await queue.join()
async def in_timeout():
    async with timeout(600): await inside_timeout()
async def inside_timeout(): await hold()
async def in_token(): await CancelToken().sleep(600)
async def in_amap(): await amap(amap_item, [1], limit=2)
async def amap_item(_): await hold()
async def in_shared_amap(): await amap(shared_item, [1], limit=2, isolate=False)
async def shared_item(_): await hold()
async def in_gather(): await gather(gathered(), limit=2)
async def gathered(): await hold()
async def in_race(): await race(racer(), racer())
async def racer(): await hold()
async def in_finish(): await finish(finished())
async def finished(): await hold()
async def in_group():
    async with TaskGroup() as group:
        group.create_task(group_child(), name="group child")
async def group_child(): await hold()
async def in_spawn():
    async with TaskGroup(limit=1) as group:
        await group.spawn(spawned)
        await group.spawn(spawned)
async def spawned(): await hold()
async def in_background():
    background = Background()
    background.spawn(background_job)
    await hold()
async def background_job(): await hold()

async def main():
    global semaphore, lock
    semaphore, lock = Semaphore(1), Lock()
    assert semaphore.try_acquire() and lock.try_acquire()
    waits = [make for name, make in globals().items() if name.startswith("in_")]
    async with TaskGroup() as everything:
        for make in waits:
            everything.create_task(make(), name=make.__name__)
        await asyncio.sleep(0.1)
        print("ready", *[make.__name__ for make in waits], flush=True)

asyncio.run(main())
"""

GROUPS = """
import asyncio
from {module} import TaskGroup

async def leaf(): await asyncio.sleep(600)
async def branch():
    async with TaskGroup() as inner:
        for name in "ab":
            inner.create_task(leaf(), name=name)
async def main():
    async with TaskGroup() as outer:
        outer.create_task(branch(), name="first")
        outer.create_task(branch(), name="second")
        await asyncio.sleep(0.1)
        print("ready", flush=True)

asyncio.run(main())
"""

RUNNING = """
import asyncio, sys, time
from loopwright import *

async def user_leaf():
    print("ready", flush=True)
    time.sleep(600)
async def user_function(*_): await user_leaf()
async def source():
    await user_function()
    yield 1

async def in_group():
    async with TaskGroup() as group: group.create_task(user_function())
async def in_spawn():
    async with TaskGroup() as group: await group.spawn(user_function)
async def in_amap(): await amap(user_function, [1], limit=2)
async def in_shared_amap(): await amap(user_function, [1], limit=2, isolate=False)
async def in_gather(): await gather(user_function())
async def in_prefetch():
    async with prefetch(source(), 1) as items:
        async for _ in items: pass
async def in_race(): await race(user_function())
async def in_finish(): await finish(user_function())
async def in_timeout():
    async with timeout(600): await user_function()
async def in_semaphore():
    async with Semaphore(1): await user_function()
async def in_background():
    Background().spawn(user_function)
    await asyncio.sleep(600)

asyncio.run(globals()[sys.argv[1]]())
"""

DRIVERS = re.findall(r"async def (in_\w+)", RUNNING)


@contextmanager
def program(source: str, *arguments: str) -> Iterator[tuple[int, list[str]]]:
    """A process that runs it, and what follows ``ready`` in the line that it prints when it waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline().split()
        if line[:1] != ["ready"]:
            process.kill()
            raise AssertionError(process.stderr.read())
        yield process.pid, line[1:]
    finally:
        process.kill()
        process.communicate()


def pstree(pid: int) -> str:
    command = [sys.executable, "-m", "asyncio", "pstree", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "PermissionError" in done.stderr or "permission" in done.stderr.lower():
        requires.missing("the right to read another process's memory")
    assert done.returncode == 0, done.stderr
    return done.stdout


with_pstree = pytest.mark.skipif(sys.version_info < (3, 14), reason="`python -m asyncio pstree` came with CPython 3.14")


@with_pstree
def test_pstree_shows_every_user_frame() -> None:
    with program(WAITING) as (pid, waits):
        tree = pstree(pid)
    driven = re.findall(r"async def (?!in_|main|hold)(\w+)", WAITING)
    assert len(waits) > 15 and len(driven) > 7
    hidden = [name for name in [*waits, *driven, "main"] if not re.search(rf"\b{name}\b(?!\))", tree)]
    assert not hidden, f"{', '.join(hidden)} not in\n{tree}"
    for name in waits:
        assert f"(T) {name}" in tree, f"the task {name} is not in\n{tree}"


def shape(tree: str) -> list[str]:
    """The tree without what names an implementation: the frames of ``TaskGroup`` and file names."""
    lines = [re.sub(r" \S*\.(py|so):?\d*|\s+$", "", line) for line in tree.splitlines()]
    return [line for line in lines if "TaskGroup" not in line and "__aexit__" not in line]


@with_pstree
def test_groups_nest_as_asyncios_own() -> None:
    trees = []
    for module in ("asyncio", "loopwright"):
        with program(GROUPS.format(module=module)) as (pid, _):
            trees.append(pstree(pid))
    theirs, ours = (
        [(line.index("(T)"), line.split("(T) ")[1]) for line in shape(tree) if "(T)" in line] for tree in trees
    )
    depths = [sorted({depth for depth, _ in tasks}) for tasks in (theirs, ours)]
    ranks = [
        sorted((levels.index(depth), name) for depth, name in tasks)
        for levels, tasks in zip(depths, (theirs, ours), strict=True)
    ]
    assert ranks[0] == ranks[1], f"asyncio:\n{trees[0]}\nloopwright:\n{trees[1]}"
    assert [name for rank, name in ranks[1] if rank == 2] == ["a", "a", "b", "b"]


NOT_BY_PY_SPY = {
    (3, 15): "py-spy 0.4 knows the frames of CPython up to 3.14",
}


@pytest.mark.skipif(sys.version_info[:2] in NOT_BY_PY_SPY, reason=NOT_BY_PY_SPY.get(sys.version_info[:2], ""))
@pytest.mark.parametrize("driver", DRIVERS)
def test_py_spy_shows_the_frames_of_what_runs(driver: str) -> None:
    command = requires.command("py-spy")
    with program(RUNNING, driver) as (pid, _):
        done = subprocess.run(
            [command, "dump", "--pid", str(pid)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"NO_COLOR": "1"},
        )
    if "ermission" in done.stderr:
        requires.missing("the right to read another process's memory (ptrace)")
    assert done.returncode == 0, done.stderr
    frames = re.findall(r"^\s+(\w+) \(", done.stdout, re.MULTILINE)
    assert frames[:2] == ["user_leaf", "user_function"], done.stdout
    if driver in {"in_timeout", "in_semaphore"}:
        assert driver in frames, done.stdout
