"""Bounded maps: 100 calls at once over many items, each call one turn of the loop.

The baseline is what a careful engineer writes by hand: 100 worker tasks over one shared iterator, results into a list.
aiometer and the semaphore-and-gather idiom are measured in rows of their own, in fewer rounds, because they are slow.
"""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys

import harness

import loopwright

LIMIT = 100


async def call(item: int) -> int:
    """The call that is mapped."""
    await asyncio.sleep(0)
    return item


async def workers(n: int) -> list[int | None]:
    """Hand-written: worker tasks that share an iterator."""
    results: list[int | None] = [None] * n
    items = iter(enumerate(range(n)))

    async def work() -> None:
        for index, item in items:
            results[index] = await call(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(LIMIT):
            group.create_task(work())
    return results


async def isolated(n: int) -> list[int]:
    """amap as it is by default: a task and a context per item."""
    return await loopwright.amap(call, range(n), limit=LIMIT)


async def task_per_item(n: int) -> None:
    """The floor of anything that gives each call a task: create_task and a done callback that does nothing."""
    loop = asyncio.get_running_loop()
    context = contextvars.copy_context()
    for start in range(0, n, LIMIT):
        tasks = [loop.create_task(call(item)) for item in range(start, start + LIMIT)]
        for task in tasks:
            task.add_done_callback(_nothing, context=context)
        await asyncio.wait(tasks[-1:])


def _nothing(_task: object) -> None:
    pass


async def shared(n: int) -> list[int]:
    """amap with workers."""
    return await loopwright.amap(call, range(n), limit=LIMIT, isolate=False)


async def iterated(n: int) -> int:
    """amap's iterator form."""
    total = 0
    async with loopwright.amap(call, range(n), limit=LIMIT) as results:
        async for result in results:
            total += result
    return total


async def batched(n: int) -> list[int]:
    """amap in batches of a thousand."""
    return await loopwright.amap(call_all, range(n), limit=LIMIT, batch=1000)


async def call_all(items: list[int]) -> list[int]:
    """The call for many."""
    await asyncio.sleep(0)
    return items


async def dataloader(n: int) -> list[int]:
    """Single calls, a hundred callers, gathered by a Batcher."""
    batcher = loopwright.Batcher(call_all, max_size=LIMIT, max_delay=0)
    return await loopwright.amap(batcher, range(n), limit=LIMIT)


async def semaphore_gather(n: int) -> list[int]:
    """The usual idiom: a task for every item at once, a semaphore between them."""
    semaphore = asyncio.Semaphore(LIMIT)

    async def one(item: int) -> int:
        async with semaphore:
            return await call(item)

    return await asyncio.gather(*[one(item) for item in range(n)])


async def aiometer_run(n: int) -> list[int]:
    """aiometer."""
    import aiometer  # noqa: PLC0415 (a peer, not ours)

    return list(await aiometer.run_on_each(call, list(range(n)), max_at_once=LIMIT) or [])


async def aiometer_map(n: int) -> int:
    """aiometer's amap."""
    import aiometer  # noqa: PLC0415

    total = 0
    async with aiometer.amap(call, list(range(n)), max_at_once=LIMIT) as results:
        async for result in results:
            total += result
    return total


def extra_memory(case: str, n: int = 100_000) -> float:
    """Peak RSS, in MB, that one run of a case in a fresh interpreter adds."""
    out = subprocess.run(
        [sys.executable, __file__, "--memory", case, str(n)], capture_output=True, check=True, text=True
    )
    return float(out.stdout)


def main() -> None:
    """Prints the rows; writes them to the file named by the first argument."""
    rows = []
    ours = {"amap": isolated, "amap isolate=False": shared}
    for loop_name, loop_factory in harness.loops().items():
        common = {"loop_factory": loop_factory, "loop_name": loop_name}
        rows += [
            harness.compare(
                "amap 1e5, 100 at once",
                {"workers": workers, **ours, "amap iterator": iterated},
                n=100_000,
                rounds=9,
                baseline="workers",
                ours="amap",
                target=1 / 3.3,
                **common,
            ),
            harness.compare(
                "amap 1e5, 100 at once, isolate=False",
                {"workers": workers, "amap isolate=False": shared},
                n=100_000,
                rounds=15,
                baseline="workers",
                ours="amap isolate=False",
                target=0.95,
                **common,
            ),
        ]
        rows.append(
            harness.compare(
                "amap 1e5, batch=1000, and a Batcher between",
                {"amap": isolated, "amap batch=1000": batched, "amap through a Batcher": dataloader},
                n=100_000,
                rounds=5,
                baseline="amap",
                ours="amap batch=1000",
                **common,
            )
        )
        for ours_name, target in (("amap", 10), ("amap isolate=False", 25)):
            try:
                import aiometer  # noqa: F401, PLC0415
            except ImportError:
                print("aiometer is not installed: its row is left out")
                break
            # The targets were set when aiometer cost 30 times the workers; `workers` and `task per item` show what can
            # be had at most with workers and with tasks.
            cases = {
                "aiometer": aiometer_run,
                "aiometer.amap": aiometer_map,
                "Semaphore + gather": semaphore_gather,
                "task per item": task_per_item,
                "workers": workers,
                **ours,
            }
            rows.append(
                harness.compare(
                    f"amap 1e5, 100 at once, {ours_name} against aiometer",
                    cases,
                    n=100_000,
                    rounds=3,
                    baseline="aiometer",
                    ours=ours_name,
                    target=target,
                    **common,
                )
            )
    print("extra peak RSS of 1e5 items, MB (target for ours: 6)")
    for case in ("workers", "isolated", "shared", "iterated", "semaphore_gather"):
        print(f"    {case:<28} {extra_memory(case):6.1f}", flush=True)
    harness.save(rows)


def peak_kb() -> int:
    """This process's peak RSS. (``ru_maxrss`` would start from the peak of the process that started this one.)"""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


def measure_memory(case: str, n: int) -> None:
    """Prints what one run adds to this process's peak."""

    async def measured() -> None:
        await globals()[case](1000)
        before = peak_kb()
        kept = await globals()[case](n)
        print((peak_kb() - before) / 1024)
        del kept

    asyncio.run(measured())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(sys.argv[2], int(sys.argv[3]))
    else:
        main()
