"""bind, get_logger, LogSink and the ways in from logging: what their pages promise."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import datetime
import decimal
import enum
import io
import json
import logging
import math
import os
import pathlib
import pickle
import select
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from support.cancels import EVERY_STEP, in_cell
from support.loops import Cell, parameters, run

from loopwright import (
    LogFilter,
    Logger,
    LogHandler,
    LogSink,
    add_fields,
    bind,
    bound,
    carry,
    configure_logging,
    get_logger,
    unbind,
)
from loopwright.testing import Play, cancel_sweep
from loopwright.testing import run as simulated

PATIENCE = 30.0
"""Seconds that a test waits for a thread of the operating system, which may be kept from running."""


class Lines:
    """What was logged, as JSON objects."""

    def __init__(self) -> None:
        self.raw: list[str] = []
        self.sink = configure_logging(self.raw.append, format="json", level="debug")

    def read(self) -> list[dict[str, Any]]:
        assert self.sink.flush(PATIENCE)
        return [json.loads(line) for line in self.raw]

    def last(self) -> dict[str, Any]:
        return self.read()[-1]

    def pick(self, *names: str) -> list[dict[str, Any]]:
        return [{name: line[name] for name in names if name in line} for line in self.read()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    yield Lines()
    configure_logging()


@pytest.fixture(autouse=True)
def clean_context() -> Iterator[None]:
    assert bound() == {}, "an earlier test left fields behind"
    yield
    unbind()


@pytest.fixture(params=parameters())
def cell(request: pytest.FixtureRequest) -> Cell:
    cell: Cell = request.param
    return cell


def python(program: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
        **options,
    )


# Fields


def test_fields_follow_tasks_and_never_leak_to_neighbours(cell: Cell) -> None:
    seen: dict[str, dict[str, Any]] = {}

    async def child(name: str) -> None:
        bind(name=name)
        await asyncio.sleep(0)
        seen[name] = bound()

    async def main() -> None:
        with bind(user=1):
            await asyncio.gather(child("a"), child("b"))
            seen["parent"] = bound()

    run(main, cell)
    assert seen == {"a": {"user": 1, "name": "a"}, "b": {"user": 1, "name": "b"}, "parent": {"user": 1}}


def test_fields_follow_callbacks_and_threads_of_asyncio() -> None:
    seen: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with bind(user=1):
            loop.call_soon(lambda: seen.append(bound()))
            seen.append(await asyncio.to_thread(bound))
        await asyncio.sleep(0)

    run(main)
    assert seen == [{"user": 1}, {"user": 1}]


@pytest.mark.parametrize("end", ["return", "error", "cancel"])
def test_a_block_leaves_no_trace_however_it_ends(end: str) -> None:
    errors = {"return": None, "error": ValueError(), "cancel": asyncio.CancelledError()}

    def body() -> None:
        with bind(user=1, kept=2):
            bind(user=3, more=4)
            unbind("kept")
            assert bound() == {"user": 3, "more": 4}
            if (error := errors[end]) is not None:
                raise error

    with bind(user=0):
        try:
            body()
        except (ValueError, asyncio.CancelledError) as error:
            assert error is errors[end]
        assert bound() == {"user": 0}
    assert bound() == {}


def test_a_block_leaves_no_trace_at_any_cancel(cell: Cell) -> None:
    async def scenario(play: Play) -> None:
        async def worker() -> None:
            try:
                with bind(user=1):
                    bind(inner=2)
                    await asyncio.sleep(0.01)
                    with bind(deep=3):
                        await asyncio.sleep(0.01)
            finally:
                assert bound() == {"task": True}

        async def victim() -> None:
            bind(task=True)
            await worker()

        play.spawn(victim(), name="victim")
        await play.finished()
        assert bound() == {}

    assert cancel_sweep(scenario, victims="victim", **EVERY_STEP, **in_cell(cell)).count("cancel") > 1


def test_unbind_takes_what_is_there() -> None:
    bind(a=1, b=2, c=3)
    unbind("b", "never bound")
    assert bound() == {"a": 1, "c": 3}
    unbind()
    assert bound() == {}


def test_bound_is_a_copy() -> None:
    with bind(a=1):
        bound()["a"] = 2
        assert bound() == {"a": 1}


def test_a_block_left_in_another_context_leaves_that_one_alone() -> None:
    block = contextvars.copy_context().run(bind, user=1)
    with bind(user=2):
        block.__exit__(None, None, None)
        assert bound() == {"user": 2}


def test_one_bind_is_for_one_block() -> None:
    block = bind(user=1)
    with block:
        pass
    with pytest.raises(RuntimeError, match="one `with` block"), block:
        pass


def test_carry_takes_fields_to_threads_and_leaves_none_there() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with bind(user=1):
            assert pool.submit(carry(bound)).result(PATIENCE) == {"user": 1}
        assert pool.submit(bound).result(PATIENCE) == {}


def test_carry_takes_fields_to_processes() -> None:
    class Local:
        def __repr__(self) -> str:
            return "<local>"

    with bind(user=1, at=datetime.date(2026, 1, 2), odd=Local()):
        again = pickle.loads(pickle.dumps(carry(bound)))
    assert again() == {"user": 1, "at": datetime.date(2026, 1, 2), "odd": "<local>"}


# Lines


def test_a_line_has_its_head_and_all_fields_in_order(lines: Lines) -> None:
    with bind(request="r", user=1):
        get_logger("app").bind(part="db").info("done", took=0.5)
    (line,) = lines.raw if lines.sink.flush(PATIENCE) else []
    read = json.loads(line)
    assert list(read) == ["timestamp", "level", "logger", "event", "request", "user", "part", "took"]
    when = datetime.datetime.fromisoformat(read["timestamp"])
    assert abs(datetime.datetime.now(datetime.UTC) - when) < datetime.timedelta(minutes=5)
    assert line.count("\n") == 1
    assert line.endswith("}\n")


def test_the_call_wins_over_the_logger_and_that_over_the_context(lines: Lines) -> None:
    log = get_logger("app").bind(b="logger", c="logger")
    with bind(a="context", b="context", c="context"):
        log.info("x", c="call")
    assert lines.pick("a", "b", "c") == [{"a": "context", "b": "logger", "c": "call"}]
    assert lines.raw[0].count('"c"') == lines.raw[0].count('"b"') == 1


def test_names_of_the_head_are_never_given_twice(lines: Lines) -> None:
    get_logger("app").info("x", level=1, event=2, timestamp=3, logger=4)
    read = lines.last()
    assert (read["event"], read["level"], read["event_"], read["level_"]) == ("x", "info", 2, 1)


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError("a text is what it holds")


NOW = datetime.datetime(2026, 11, 21, 1, 2, 3, 40, tzinfo=datetime.UTC)
EAST = datetime.timezone(datetime.timedelta(hours=2))

VALUES: list[tuple[Any, Any]] = [
    ("", ""),
    (
        'quote " backslash \\ tab \t break \r\n nul \0 del \x7f',
        'quote " backslash \\ tab \t break \r\n nul \0 del \x7f',
    ),
    ("\u2028\u00e9\U0001f600", "\u2028\u00e9\U0001f600"),
    ("a\ud800b", "a\\ud800b"),
    (Text("text"), "text"),
    (0, 0),
    (-(2**63), -(2**63)),
    (2**64, 2**64),
    (-(10**100), -(10**100)),
    (10**5000, "<int of too many digits>"),
    (Number.ONE, 1),
    (True, True),
    (None, None),
    (1.5, 1.5),
    (1e300, 1e300),
    (5e-324, 5e-324),
    (math.nan, "NaN"),
    (math.inf, "Infinity"),
    (-math.inf, "-Infinity"),
    (NOW, NOW.isoformat()),
    (NOW.replace(tzinfo=None, microsecond=0), "2026-11-21T01:02:03"),
    (NOW.astimezone(EAST), NOW.astimezone(EAST).isoformat()),
    (NOW.date(), "2026-11-21"),
    (NOW.time(), "01:02:03.000040"),
    (datetime.timedelta(seconds=90), "0:01:30"),
    (ValueError("bad"), "ValueError: bad"),
    (ValueError(), "ValueError"),
    (
        ExceptionGroup("two", [ValueError("a"), ExceptionGroup("in", [OSError("b")])]),
        "ExceptionGroup: two (2 sub-exceptions) [ValueError: a; ExceptionGroup: in (1 sub-exception) [OSError: b]]",
    ),
    (b"text\xff\n", "text\\xff\n"),
    (bytearray(b"ab"), "ab"),
    ({"a": [1, (2, None)], 3: {"b": 1.5}}, {"a": [1, [2, None]], "3": {"b": 1.5}}),
    (frozenset({1}), [1]),
    ({2}, [2]),
    ([], []),
    ({}, {}),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (decimal.Decimal("1.50"), "1.50"),
    (pathlib.PurePosixPath("/tmp/x"), "/tmp/x"),
    (Colour.RED, "Colour.RED"),
    (int, "<class 'int'>"),
    (range(3), "range(0, 3)"),
]


@pytest.mark.parametrize(("value", "wanted"), VALUES, ids=lambda value: ascii(value)[:30] if type(value) is str else "")
def test_every_value_is_valid_json(value: Any, wanted: Any, lines: Lines) -> None:
    get_logger("app").info("x", value=value)
    with bind(value=value):
        get_logger("app").info("x")
    for line in lines.read():
        assert line["value"] == wanted
        assert type(line["value"]) is type(wanted)


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error


class Endless:
    def __repr__(self) -> str:
        return repr([self])


class NoText:
    def __repr__(self) -> str:
        return 5  # type: ignore[return-value]


class Liar(dict[Any, Any]):
    def items(self) -> Any:
        raise AssertionError("a dict is what it holds")

    __iter__ = __len__ = keys = items  # type: ignore[assignment]


class BadError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Grows:
    """Its repr changes the containers that it is in."""

    def __init__(self) -> None:
        self.list: list[Any] = [self, 1]
        self.dict: dict[Any, Any] = {"self": self, "list": self.list}

    def __repr__(self) -> str:
        self.list.extend(range(100))
        self.dict.clear()
        return "<grows>"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (Raises(ValueError()), "<unprintable Raises: ValueError>"),
        (Endless(), "<unprintable Endless: RecursionError>"),
        (NoText(), "<unprintable NoText: TypeError>"),
        (Liar({"a": 1}), {"a": 1}),
        (BadError(), "BadError: <unprintable BadError: RuntimeError>"),
        (Grows().dict, {"self": "<grows>", "list": ["<grows>", 1, *range(100)]}),
        ({Raises(ValueError()): 1}, {"<unprintable Raises: ValueError>": 1}),
        ([Raises(KeyError("x"))], ["<unprintable Raises: KeyError>"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_hostile_objects_cost_no_line(value: Any, wanted: Any, lines: Lines) -> None:
    get_logger("app").info("x", value=value)
    assert lines.last()["value"] == wanted


def test_cycles_and_depth_end(lines: Lines) -> None:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    deep: Any = "end"
    for _ in range(1000):
        deep = [deep]
    get_logger("app").info("x", cycle=cycle, twice=[[2], [2]], deep=deep)
    read = lines.last()
    assert read["cycle"] == [1, {"again": "<cycle>"}]
    assert read["twice"] == [[2], [2]]
    assert "<nested too deeply>" in json.dumps(read["deep"])


def test_a_line_is_bounded(lines: Lines) -> None:
    big = "x" * 10_000_000
    get_logger("app").info(big, text=big, items=[big] * 1000, table=dict.fromkeys(range(10_000_000 // 100), big))
    lines.read()
    assert len(lines.raw[0]) < 1_000_000


def test_ctrl_c_in_a_repr_is_not_eaten(lines: Lines) -> None:
    with pytest.raises(KeyboardInterrupt):
        get_logger("app").info("x", value=Raises(KeyboardInterrupt()))
    get_logger("app").info("goes on")
    assert lines.pick("event") == [{"event": "goes on"}]


def test_a_repr_that_logs_is_a_line_of_its_own(lines: Lines) -> None:
    class Chatty:
        def __repr__(self) -> str:
            get_logger("app").info("inner")
            return "<chatty>"

    get_logger("app").info("outer", value=Chatty())
    assert lines.pick("event", "value") == [{"event": "inner"}, {"event": "outer", "value": "<chatty>"}]


def test_exceptions_and_groups_come_with_their_tracebacks(lines: Lines) -> None:
    log = get_logger("app")
    try:
        try:
            raise ExceptionGroup("several", [ValueError("one"), OSError("two")])
        except* OSError as error:
            raise RuntimeError("outer") from error
    except ExceptionGroup as error:
        log.exception("failed")
        log.info("shown", exc_info=error)
        log.info("triple", exc_info=sys.exc_info())
    log.info("none", exc_info=True)
    first, second, third, fourth = lines.read()
    assert first["level"] == "error"
    for line in (first, second, third):
        for part in ("ExceptionGroup", "ValueError: one", "OSError: two", "RuntimeError: outer", "test_logs.py"):
            assert part in line["exception"]
    assert "exception" not in fourth


def test_a_hostile_exception_costs_no_line(lines: Lines) -> None:
    class Worse(Exception):
        @property
        def __cause__(self) -> Any:  # type: ignore[override]
            raise ValueError

        __notes__ = property(__cause__.fget)  # type: ignore[assignment, attr-defined]

    for error in (BadError(), Worse()):
        get_logger("app").error("failed", exc_info=error)
    assert all(
        type(error).__name__ in line["exception"]
        for error, line in zip((BadError(), Worse()), lines.read(), strict=True)
    )


def test_positional_arguments_are_for_percent(lines: Lines) -> None:
    log = get_logger("app")
    log.info("%s is %d", "a", 1)
    log.info("%(a)s", {"a": 2})
    log.info("%d", "no number")
    assert [line["event"] for line in lines.read()] == ["a is 1", "2", ["%d", ["no number"]]]


def test_providers_add_fields_and_never_cost_a_line(lines: Lines) -> None:
    answers: list[Any] = [{"trace": "t", "user": "weak"}, None, "no dict", ValueError("broken")]

    def provide() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    remove = add_fields(provide)
    try:
        with bind(user=1):
            for _ in range(4):
                get_logger("app").info("x")
    finally:
        remove()
    get_logger("app").info("x")
    assert lines.pick("trace", "user", "fields_error") == [
        {"trace": "t", "user": 1},
        {"user": 1},
        {"user": 1, "fields_error": "a provider of fields gave no dict"},
        {"user": 1, "fields_error": "ValueError: broken"},
        {},
    ]


def test_the_console_obeys_nothing_that_a_value_says() -> None:
    rows: list[str] = []
    sink = LogSink(rows.append, format="console")
    configure_logging(sink)
    try:
        try:
            raise ValueError("bell \a")
        except ValueError:
            get_logger("app").exception(
                "a\nb\x1b[31m", word="plain", words="two words", path="a=b", bad="\x9b1m\u202e", n=1
            )
        assert sink.flush(PATIENCE)
    finally:
        configure_logging()
    first, *rest = "".join(rows).splitlines()
    assert first[13:] == r'error    app  a\nb\x1b[31m word=plain words="two words" path="a=b" bad=\x9b1m\u202e n=1'
    assert rest[0] == "Traceback (most recent call last):"
    assert not any(ord(character) < 32 for character in "".join([first, *rest]))


# Levels


def test_levels_hold_for_names_below_them_and_change_for_living_loggers(lines: Lines) -> None:
    log, below, other = get_logger("app.db"), get_logger("app.db.pool"), get_logger("app.dbx")
    bound_log = log.bind(a=1)
    configure_logging(lines.sink, level="warning", levels={"app": "error", "app.db": "debug"})
    for each in (log, below, bound_log, get_logger("app.db.new")):
        assert each.is_enabled("debug")
    assert not other.is_enabled("warning")
    assert other.is_enabled(logging.ERROR)
    assert not get_logger("else").is_enabled("info")
    configure_logging(lines.sink, level="off")
    log.critical("nothing")
    assert lines.read() == []
    configure_logging(lines.sink, level=logging.DEBUG)
    log.debug("one")
    log.log("info", "two")
    log.log(logging.WARNING, "three")
    assert [line["level"] for line in lines.read()] == ["debug", "info", "warning"]


def test_a_call_below_the_level_looks_at_nothing(lines: Lines) -> None:
    configure_logging(lines.sink, level="error")
    get_logger("app").info("%d", "x", value=Raises(AssertionError()), exc_info=Raises(AssertionError()))
    with pytest.raises(TypeError):
        get_logger("app").info()  # type: ignore[call-arg]
    assert lines.read() == []


@pytest.mark.parametrize(
    ("level", "error"), [("loud", ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)]
)
def test_a_level_that_is_none_is_refused(level: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="a level is"):
        configure_logging(level=level)
    with pytest.raises(error, match="a level is"):
        get_logger("app").log(level, "x")


def test_a_logger_without_a_name_is_the_modules() -> None:
    assert get_logger().name == __name__
    assert repr(get_logger("x")).startswith('<Logger "x" level=')


# The sink


class Stuck:
    """A target that holds the writer until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.entered.set()
        assert self.go.wait(PATIENCE)
        self.lines.append(line)


def test_a_slow_sink_never_blocks_and_its_drops_are_counted_and_reported_in_place() -> None:
    target = Stuck()
    sink = LogSink(target, format="json", max_bytes=4096)
    assert sink.write("0")
    assert target.entered.wait(PATIENCE)
    kept = [number for number in range(1, 5000) if sink.write(f"{number:04}")]
    dropped = sink.stats().dropped
    assert dropped == 4999 - len(kept) > 0
    assert sink.stats().waiting_bytes <= 4096
    important = sink.write("!" * 400, matters=True)
    assert important, "the last eighth is for what matters"
    assert not sink.flush(0)
    target.go.set()
    assert sink.flush(PATIENCE)
    gap = json.loads(target.lines[-2])
    assert gap["dropped"] == dropped
    assert gap["level"] == "warning"
    del target.lines[-2]
    assert target.lines == ["0\n", *(f"{number:04}\n" for number in kept), "!" * 400 + "\n"]
    assert sink.stats().written == len(kept) + 2
    assert (sink.stats().waiting, sink.stats().waiting_bytes) == (0, 0)


def test_a_gap_is_reported_though_nothing_follows() -> None:
    target = Stuck()
    sink = LogSink(target, format="json", max_bytes=1024)
    sink.write("0")
    assert target.entered.wait(PATIENCE)
    assert not sink.write("x" * 2000)
    target.go.set()
    assert sink.flush(PATIENCE)
    assert json.loads(target.lines[-1])["dropped"] == 1


def test_a_pipe_that_nobody_reads_never_blocks_the_caller() -> None:
    read, write = os.pipe()
    sink = LogSink(write, max_bytes=64 * 1024)
    try:
        configure_logging(sink)
        log = get_logger("app")
        for number in range(20_000):  # far more than pipe and memory hold
            log.info("line", number=number, text="x" * 50)
        stats = sink.stats()
        assert stats.dropped > 0
        assert stats.waiting_bytes <= stats.max_bytes
    finally:
        configure_logging()
        os.close(write)
        with open(read, "rb") as pipe:  # the sink has a duplicate of the other end
            assert json.loads(pipe.readline())["number"] == 0
        sink.close(0)


def test_lines_of_threads_are_whole_and_in_the_order_of_each(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "app.log"
    sink = configure_logging(path, max_bytes=64 << 20)
    try:

        def work(thread: int) -> None:
            log = get_logger(f"thread{thread}")
            for number in range(500):
                log.info("x", thread=thread, number=number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sink.flush(PATIENCE)
    finally:
        configure_logging()
    read = [json.loads(line) for line in path.read_text().splitlines()]
    for thread_number in range(4):
        assert [line["number"] for line in read if line["thread"] == thread_number] == list(range(500))


def test_a_sink_that_fails_is_counted_and_says_why() -> None:
    def broken(_: str) -> None:
        raise OSError("disk full")

    sink = LogSink(broken)
    sink.write("x")
    assert sink.flush(PATIENCE)
    assert (sink.stats().failed, sink.stats().written) == (1, 0)
    assert "disk full" in (sink.stats().last_error or "")
    read, write = os.pipe()
    os.close(read)
    sink = LogSink(write)
    os.close(write)
    sink.write("x")
    assert sink.flush(PATIENCE)
    assert "Broken pipe" in (sink.stats().last_error or "")


def test_a_pipe_that_does_not_block_is_waited_for_by_the_thread() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    sink = LogSink(write)
    text = "x" * 200_000  # more than a pipe holds
    sink.write(text)
    os.close(write)
    got = b""
    while not got.endswith(b"\n"):
        assert select.select([read], [], [], PATIENCE)[0]
        got += os.read(read, 65536)
    os.close(read)
    assert got == text.encode() + b"\n"
    assert sink.flush(PATIENCE)


def test_a_closed_sink_takes_nothing_and_counts_it() -> None:
    got: list[str] = []
    sink = LogSink(got.append)
    sink.write("one")
    assert sink.close(PATIENCE)
    assert not sink.write("two")
    assert sink.close()
    assert sink.flush()
    assert got == ["one\n"]
    assert sink.closed
    assert sink.stats().dropped == 1
    assert "closed" in repr(sink)


def test_a_collected_sink_writes_what_it_has_and_its_thread_ends() -> None:
    def writers() -> int:
        names = (pathlib.Path(f"/proc/self/task/{task}/comm") for task in os.listdir("/proc/self/task"))
        return sum(name.exists() and name.read_text() == "loopwright-logs\n" for name in names)

    before = writers()
    target = Stuck()
    sink = LogSink(target)
    sink.write("one")
    sink.write("two")
    assert target.entered.wait(PATIENCE)
    assert writers() == before + 1
    del sink
    target.go.set()
    waited = threading.Event()
    for _ in range(3000):
        if writers() == before:
            break
        waited.wait(0.01)
    assert writers() == before
    assert target.lines == ["one\n", "two\n"]


def test_a_rotated_file_is_opened_anew(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "app.log"
    sink = LogSink(path)
    sink.write("one")
    assert sink.flush(PATIENCE)
    path.rename(tmp_path / "app.log.1")
    sink.reopen()
    sink.write("two")
    assert sink.flush(PATIENCE)
    assert (path.read_text(), (tmp_path / "app.log.1").read_text()) == ("two\n", "one\n")
    with pytest.raises(ValueError, match="path"):
        LogSink(2).reopen()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"to": 1.5}, TypeError),
        ({"to": "/no/such/directory/x"}, FileNotFoundError),
        ({"to": 10_000}, OSError),
        ({"format": "xml"}, ValueError),
        ({"max_bytes": 10}, ValueError),
        ({"max_bytes": "1"}, TypeError),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        LogSink(**arguments)


def test_an_open_file_keeps_its_order_and_may_be_closed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x"
    file = path.open("w")
    file.write("before\n")
    sink = LogSink(file)
    file.close()
    sink.write("after")
    assert sink.flush(PATIENCE)
    assert path.read_text() == "before\nafter\n"
    text = io.StringIO()
    sink = LogSink(text)
    sink.write("é")
    assert sink.flush(PATIENCE)
    assert text.getvalue() == "é\n"


# The end of a process, and forks


def test_nothing_is_lost_at_the_end() -> None:
    done = python(
        """
        import atexit, sys
        atexit.register(lambda: log.info("at exit, registered earlier"))
        from loopwright import get_logger
        log = get_logger("app")
        atexit.register(lambda: log.info("at exit"))
        class Late:
            def __del__(self): log.info("collected at the very end")
        keep = Late()
        for number in range(10_000):
            log.info("x", number=number)
        """
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event.get("number") for event in events[:10_000]] == list(range(10_000))
    assert [event["event"] for event in events[10_000:12_000]][:2] == ["at exit", "at exit, registered earlier"]


def test_a_stuck_sink_does_not_hold_up_the_end() -> None:
    read, write = os.pipe()
    try:
        done = python(
            """
            import sys, loopwright.logs
            loopwright.logs._LAST = 0.2
            sink = loopwright.configure_logging(int(sys.argv[1]))
            log = loopwright.get_logger("app")
            for number in range(10_000):
                log.info("x", text="y" * 100)
            print("ends")
            """,
            str(write),
            pass_fds=[write],
        )
    finally:
        os.close(read)
        os.close(write)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_is_safe_and_no_line_is_written_twice(tmp_path: pathlib.Path) -> None:
    """While the writer is busy, in many children; CPython warns of forks beside threads, and has no reason to."""
    path = tmp_path / "app.log"
    done = python(
        """
        import os, sys, warnings
        warnings.simplefilter("error")
        import loopwright
        sink = loopwright.configure_logging(sys.argv[1], max_bytes=64 << 20)
        log = loopwright.get_logger("app")
        for fork in range(20):
            for number in range(200):
                log.info("parent", number=fork * 200 + number)
            child = os.fork()
            if child == 0:
                for number in range(50):
                    log.info("child", fork=fork, number=number)
                os._exit(0 if loopwright.flush_logs(30) else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert sink.flush(30)
        """,
        str(path),
    )
    assert (done.returncode, done.stderr) == (0, "")
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["number"] for line in read if line["event"] == "parent"] == list(range(4000))
    assert sorted((line["fork"], line["number"]) for line in read if line["event"] == "child") == [
        (fork, number) for fork in range(20) for number in range(50)
    ]


@pytest.mark.default_only
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_lines_of_multiprocessing_children_arrive(method: str, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys, warnings
            import loopwright

            def work(number):
                log = loopwright.get_logger("app")
                for each in range(100):
                    log.info("child", child=number, number=each)

            if __name__ == "__main__":
                context = multiprocessing.get_context(sys.argv[1])
                loopwright.get_logger("app").info("parent")
                with loopwright.bind(request="r"):
                    children = [
                        context.Process(target=loopwright.carry(work), args=(number,)) for number in range(2)
                    ]
                for child in children: child.start()
                for child in children: child.join()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", program, method],
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    read = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in read if line["event"] == "parent"] == ["parent"]
    got = sorted((line["child"], line["number"]) for line in read if line["event"] == "child")
    assert got == [(child, number) for child in range(2) for number in range(100)]
    assert {line["request"] for line in read if line["event"] == "child"} == {"r"}


# logging


@pytest.fixture
def std() -> logging.Logger:
    logger = logging.Logger("test_logs.std", logging.DEBUG)  # nobody else's: pytest listens at the root
    return logger


def test_existing_log_calls_carry_the_fields(std: logging.Logger, lines: Lines) -> None:
    std.addHandler(LogHandler())
    with bind(user=1, kind="bound"):
        std.info("hello %s", "you", extra={"kind": "extra", "rows": 3})
        try:
            raise ExceptionGroup("g", [ValueError("inner")])
        except ExceptionGroup:
            std.exception("failed", stack_info=True)
        std.warning("%d", "no number")
        logging.addLevelName(25, "NOTICE")
        std.log(25, {"a": 1})
    first, second, third, fourth = lines.read()
    assert (first["event"], first["level"], first["logger"]) == ("hello you", "info", "test_logs.std")
    assert (first["user"], first["kind"], first["rows"]) == (1, "extra", 3)
    assert "ValueError: inner" in second["exception"]
    assert "Stack (most recent call last)" in second["exception"]
    assert "no number" in third["event"]
    assert (fourth["level"], fourth["event"]) == ("notice", "{'a': 1}")


def test_a_formatter_that_is_there_sees_the_fields(std: logging.Logger) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(request_id)s %(message)s [%(bound)s]"))
    handler.addFilter(LogFilter(request_id="-"))
    std.addHandler(handler)
    std.info("before")
    with bind(request_id=7, user=1, message="not overwritten", name="nor this"):
        std.info("inside")
    assert stream.getvalue().splitlines() == [
        "- before []",
        "7 inside [request_id=7 user=1 message=not overwritten name=nor this]",
    ]


def test_the_root_logger_is_not_touched() -> None:
    done = python(
        """
        import logging
        root = logging.getLogger()
        before = (root.level, list(root.handlers), list(root.filters), logging.raiseExceptions, logging.lastResort)
        names = set(logging.root.manager.loggerDict)
        import loopwright
        loopwright.configure_logging()
        loopwright.get_logger("app").info("x")
        loopwright.LogHandler(), loopwright.LogFilter()
        after = (root.level, list(root.handlers), list(root.filters), logging.raiseExceptions, logging.lastResort)
        assert before == after
        ours = set(logging.root.manager.loggerDict) - names
        assert all(name.split(".")[0] in {"loopwright", "asyncio", "concurrent"} for name in ours), ours
        assert not any(logging.getLogger(name).handlers for name in ours)
        assert "logging.config" not in __import__("sys").modules
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_logger_is_collected_with_what_it_holds() -> None:
    import gc  # noqa: PLC0415
    import weakref  # noqa: PLC0415

    class Thing:
        log: Logger

    thing = Thing()
    thing.log = get_logger("app").bind(thing=thing)
    gone = weakref.ref(thing)
    del thing
    gc.collect()
    assert gone() is None


def test_a_sink_that_works_or_is_stuck_does_not_hold_virtual_time() -> None:
    target = Stuck()
    sink = LogSink(target, format="json")

    async def main() -> None:
        sink.write("before")
        assert target.entered.wait(PATIENCE)
        await asyncio.sleep(1e6)
        target.go.set()
        for _ in range(10):
            sink.write("line")
            await asyncio.sleep(1e6)

    simulated(main)
    assert sink.flush(PATIENCE)
    assert len(target.lines) == 11
