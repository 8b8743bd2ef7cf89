"""Seeded randomness and virtual clocks: the same each time inside, as before outside, whatever happened between."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import os
import pickle
import random
import secrets
import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Callable
from datetime import datetime as imported_datetime
from time import monotonic as imported_monotonic
from time import time as imported_time
from typing import Any

import pytest

from loopwright.testing import SimLoop, run, seeded, virtual_clock

HOUR = 3600.0
YEAR_2000 = 946684800.0


# Randomness


def draw() -> list[Any]:
    generator = random.Random()
    return [
        random.random(),
        random.getrandbits(70),
        random.sample(range(1000), 5),
        generator.random(),
        random.Random().random(),
        uuid.uuid4(),
        uuid.uuid4(),
        uuid.uuid1(clock_seq=None).node,
        uuid.uuid1().clock_seq,
    ]


def test_the_same_seed_gives_the_same_numbers() -> None:
    with seeded(7):
        first = draw()
    with seeded(7):
        assert draw() == first
    with seeded(8):
        assert not any(map(lambda a, b: a == b, draw(), first))


def test_numbers_are_the_same_in_another_process() -> None:
    program = "\n".join(
        [
            "import random, uuid",
            "from loopwright.testing import seeded",
            "with seeded('x'): print(random.random(), uuid.uuid4())",
        ]
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_seeding_anew_without_a_seed_repeats_itself_too() -> None:
    def reseeded() -> float:
        random.seed()
        return random.random()

    with seeded(7):
        first = [reseeded(), reseeded()]
    assert first[0] != first[1]
    with seeded(7):
        assert [reseeded(), reseeded()] == first


def test_explicit_seeds_mean_what_they_always_meant() -> None:
    wanted = random.Random(42).random()
    with seeded(7):
        assert random.Random(42).random() == wanted
        random.seed(42)
        assert random.random() == wanted


def test_random_goes_on_after_the_block_as_if_it_had_not_been() -> None:
    random.seed(1)
    wanted = [random.random() for _ in range(4)]
    random.seed(1)
    got = [random.random(), random.random()]
    with seeded(7):
        random.random()
    assert [*got, random.random(), random.random()] == wanted


def test_an_outer_block_goes_on_where_it_was() -> None:
    with seeded(1):
        wanted = [random.random(), random.random(), uuid.uuid4(), uuid.uuid4()]
    with seeded(1):
        got = [random.random()]
        with seeded(2):
            draw()
        got.append(random.random())
        identifiers = [uuid.uuid4()]
        with seeded(1):
            draw()
        assert [*got, *identifiers, uuid.uuid4()] == wanted


def everything_patched() -> list[Any]:
    return [
        *(vars(random)[name] for name in ("seed", "_urandom")),
        *(vars(uuid).get(name) for name in ("os", "_generate_time_safe", "_node", "_last_timestamp")),
        vars(random.Random)["seed"],
        os.urandom,
        *vars(time).values(),
        *(vars(datetime.datetime)[name] for name in ("now", "utcnow")),
        vars(datetime.date)["today"],
        imported_time,
        imported_monotonic,
    ]


def test_everything_is_given_back_also_after_an_exception() -> None:
    before = everything_patched()
    with pytest.raises(ZeroDivisionError), seeded(7, urandom=True), virtual_clock(SimLoop()):
        1 / 0  # noqa: B018
    assert all(map(lambda a, b: a is b or a == b, everything_patched(), before))


def test_secrets_stay_secret_unless_asked() -> None:
    def secret() -> list[object]:
        return [os.urandom(16), secrets.token_hex(16), random.SystemRandom().random()]

    drawn: list[list[object]] = []
    for _ in range(2):
        with seeded(7):
            drawn.append(secret())
    assert not any(map(lambda a, b: a == b, *drawn))
    drawn.clear()
    for _ in range(2):
        with seeded(7, urandom=True):
            drawn.append(secret())
    assert drawn[0] == drawn[1]


def test_uuids_have_their_versions() -> None:
    with seeded(7):
        assert uuid.uuid4().version == 4
        assert uuid.uuid1().version == 1
        assert len({uuid.uuid4() for _ in range(1000)} | {uuid.uuid1() for _ in range(1000)}) == 2000
        assert uuid.uuid1().node >> 40 & 1, "a node that is no hardware address says so"


def test_uuids_of_time_are_the_same_with_a_virtual_clock() -> None:
    async def main() -> list[object]:
        with seeded(7), virtual_clock():
            await asyncio.sleep(1)
            made: list[object] = [uuid.uuid1(), uuid.uuid1()]
            if sys.version_info >= (3, 14):
                made += [uuid.uuid6(), uuid.uuid7(), uuid.uuid7()]
            return made

    first = run(main)
    assert run(main) == first
    assert len(set(map(str, first))) == len(first)


# Clocks


def on_virtual_clock(body: Callable[[], Any], **options: Any) -> Any:
    """What ``body`` returns an hour after the loop's start."""

    async def main() -> Any:
        with virtual_clock(**options):
            await asyncio.sleep(HOUR)
            return body()

    return run(main)


READINGS: dict[str, Any] = {
    "time.time()": YEAR_2000 + HOUR,
    "imported_time()": YEAR_2000 + HOUR,
    "time.time_ns()": int(YEAR_2000 + HOUR) * 10**9,
    "time.monotonic()": HOUR,
    "imported_monotonic()": HOUR,
    "time.monotonic_ns()": int(HOUR) * 10**9,
    "time.perf_counter()": HOUR,
    "time.perf_counter_ns()": int(HOUR) * 10**9,
    "time.gmtime()[:6]": (2000, 1, 1, 1, 0, 0),
    "time.mktime(time.localtime())": YEAR_2000 + HOUR,
    "time.ctime()": time.ctime(YEAR_2000 + HOUR),
    "time.asctime()": time.ctime(YEAR_2000 + HOUR),
    "time.strftime('%Y-%j')": time.strftime("%Y-%j", time.localtime(YEAR_2000 + HOUR)),
    "time.clock_gettime(time.CLOCK_REALTIME)": YEAR_2000 + HOUR,
    "time.clock_gettime(time.CLOCK_MONOTONIC)": HOUR,
    "datetime.datetime.now(datetime.UTC)": datetime.datetime(2000, 1, 1, 1, tzinfo=datetime.UTC),
    "imported_datetime.now().timestamp()": YEAR_2000 + HOUR,
    "imported_datetime.now(tz=None).timestamp()": YEAR_2000 + HOUR,
    "imported_datetime.utcnow()": datetime.datetime(2000, 1, 1, 1),
    "imported_datetime.today().timestamp()": YEAR_2000 + HOUR,
    "datetime.date.today()": datetime.date.fromtimestamp(YEAR_2000 + HOUR),
}


@pytest.mark.filterwarnings("ignore:.*utcnow:DeprecationWarning")
@pytest.mark.parametrize("reading", READINGS)
def test_every_clock_follows_the_loop(reading: str) -> None:
    def read() -> Any:
        return eval(reading)

    assert on_virtual_clock(read) == READINGS[reading]
    assert read() != READINGS[reading]


def test_a_time_that_is_given_is_not_replaced() -> None:
    assert on_virtual_clock(lambda: time.gmtime(0)[:6]) == (1970, 1, 1, 0, 0, 0)
    assert on_virtual_clock(lambda: time.strftime("%Y", time.gmtime(0))) == "1970"


def test_a_subclass_of_datetime_gets_its_own_kind() -> None:
    class Stamp(datetime.datetime):
        pass

    stamp = on_virtual_clock(lambda: Stamp.now(datetime.UTC))
    assert type(stamp) is Stamp
    assert stamp == datetime.datetime(2000, 1, 1, 1, tzinfo=datetime.UTC)


def test_classes_stay_what_they_are() -> None:
    def body() -> None:
        now = datetime.datetime.now()
        assert type(now) is imported_datetime is datetime.datetime
        assert isinstance(now, datetime.date)
        assert pickle.loads(pickle.dumps(now)) == now

    on_virtual_clock(body)
    for _ in range(1000):
        assert datetime.datetime.now().year > 2000
    gc.collect()


def test_a_class_that_keeps_a_clock_does_not_make_a_method_of_it() -> None:
    def body() -> float:
        class Meter:
            clock = time.monotonic

        return Meter().clock()

    assert on_virtual_clock(body) == HOUR


def test_the_epoch_can_be_chosen() -> None:
    epoch = datetime.datetime(2030, 5, 17, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert on_virtual_clock(lambda: time.time_ns() // 10**9, epoch=epoch) == epoch.timestamp() + HOUR
    with (
        pytest.raises(ValueError, match="has no time zone"),
        virtual_clock(SimLoop(), epoch=datetime.datetime(2030, 1, 1)),
    ):
        pass


def test_without_a_loop_there_is_no_clock() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"), virtual_clock():
        pass


def test_the_innermost_clock_is_in_force() -> None:
    one, other = SimLoop(), SimLoop()
    one.run_until_complete(asyncio.sleep(1))
    other.run_until_complete(asyncio.sleep(2))
    with virtual_clock(one):
        assert time.monotonic() == 1
        with virtual_clock(other), virtual_clock(other):
            assert time.monotonic() == 2
        assert time.monotonic() == 1
        later = asyncio.sleep(3)
        one.run_until_complete(later)
        assert time.monotonic() == 4
    one.close()
    other.close()


def test_what_was_imported_meanwhile_is_real_afterwards() -> None:
    def body() -> types.ModuleType:
        module = types.ModuleType("imported_meanwhile")
        exec("from time import monotonic, time", vars(module))
        assert module.monotonic() == HOUR
        return module

    module = on_virtual_clock(body)
    assert module.time() > YEAR_2000 * 1.5
    assert abs(module.monotonic() - time.monotonic()) < HOUR


def test_the_timestamps_of_logging_follow(caplog: pytest.LogCaptureFixture) -> None:
    on_virtual_clock(lambda: logging.getLogger("shop").warning("sold out"))
    assert [record.created for record in caplog.records] == [YEAR_2000 + HOUR]


def test_real_waits_stay_real() -> None:
    """Another loop in a thread, locks with timeouts, executors: none of them hangs, none of them is early."""

    async def nap() -> None:
        await asyncio.sleep(0.05)

    def in_thread() -> bool:
        asyncio.run(nap())
        return threading.Event().wait(0.05)

    async def main() -> None:
        with virtual_clock():
            async with asyncio.timeout(30):
                assert await asyncio.to_thread(in_thread) is False
            await asyncio.sleep(HOUR)

    began = imported_monotonic()
    run(main)
    assert imported_monotonic() - began >= 0.1


def test_another_thread_measures_what_it_waits() -> None:
    def in_thread() -> float:
        began = time.monotonic()
        threading.Event().wait(0.2)
        return time.monotonic() - began

    async def main() -> float:
        with virtual_clock():
            await asyncio.sleep(HOUR)
            return await asyncio.to_thread(in_thread)

    assert 0.15 <= run(main) < HOUR
