"""Races: an `await` between looking and acting, where another task gets in.

Every defect here passes when tasks run first in, first out: the second task happens to come one step too late to do
harm. Another order of the same steps, which a slow socket brings about in production, and the promise is broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace

from corpus import defect, healthy


async def steps(number: int) -> None:
    """Work that takes so many turns of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)


@defect("read-modify-write across an await", found_by="order", within=100)
async def counter_torn_by_an_await() -> None:
    """`hits` is read before the await and written after it."""
    state = SimpleNamespace(hits=0)

    async def hit(delay: int) -> None:
        await steps(delay)
        seen = state.hits
        await steps(1)
        state.hits = seen + 1

    await asyncio.gather(hit(0), hit(3))
    assert state.hits == 2


@healthy("read and written in one step", like=counter_torn_by_an_await)
async def counter_in_one_step() -> None:
    """The await comes first; between the read and the write nobody can get in."""
    state = SimpleNamespace(hits=0)

    async def hit(delay: int) -> None:
        await steps(delay + 1)
        state.hits = state.hits + 1

    await asyncio.gather(hit(0), hit(3))
    assert state.hits == 2


@healthy("read and written under one lock", like=counter_torn_by_an_await)
async def counter_under_a_lock() -> None:
    """The await stays in the middle, and a lock is held around both."""
    state, lock = SimpleNamespace(hits=0), asyncio.Lock()

    async def hit(delay: int) -> None:
        await steps(delay)
        async with lock:
            seen = state.hits
            await steps(1)
            state.hits = seen + 1

    await asyncio.gather(hit(0), hit(3), hit(1))
    assert state.hits == 3


@defect("lost update", found_by="order", within=100)
async def document_overwritten() -> None:
    """Two editors load the whole document, change their own field and store the whole document."""
    store = {"doc": {"title": "", "body": ""}}

    async def edit(field: str, delay: int) -> None:
        await steps(delay)
        document = dict(store["doc"])
        await steps(1)  # the round trip to the database
        document[field] = "written"
        store["doc"] = document

    await asyncio.gather(edit("title", 0), edit("body", 3))
    assert store["doc"] == {"title": "written", "body": "written"}


@healthy("only the field is written", like=document_overwritten)
async def document_field_updated() -> None:
    """What is stored is the change, not a copy of the whole."""
    store = {"doc": {"title": "", "body": ""}}

    async def edit(field: str, delay: int) -> None:
        await steps(delay)
        await steps(1)
        store["doc"][field] = "written"

    await asyncio.gather(edit("title", 0), edit("body", 3))
    assert store["doc"] == {"title": "written", "body": "written"}


@defect("check-then-act: the same thing made twice", found_by="order", within=100)
async def cache_filled_twice() -> None:
    """Two tasks miss the cache before either has filled it, and both connect."""
    cache: dict[str, object] = {}
    opened = []

    async def client(delay: int) -> None:
        await steps(delay)
        if "db" not in cache:
            await steps(1)  # connecting
            opened.append("db")
            cache["db"] = object()

    await asyncio.gather(client(0), client(3))
    assert len(opened) == 1


@healthy("the first asker makes it, the others wait for the same task", like=cache_filled_twice)
async def cache_filled_by_one_task() -> None:
    """What stands in the cache at once is the task that connects; each waiter shields it from its own cancel."""
    cache: dict[str, asyncio.Task[object]] = {}
    opened = []

    async def connect() -> object:
        await steps(1)
        opened.append("db")
        return object()

    async def client(delay: int) -> None:
        await steps(delay)
        if "db" not in cache:
            cache["db"] = asyncio.create_task(connect())
        await asyncio.shield(cache["db"])

    try:
        await asyncio.gather(client(0), client(3), client(1))
        assert len(opened) == 1
    finally:
        for task in cache.values():
            task.cancel()
        await asyncio.gather(*cache.values(), return_exceptions=True)


@defect("check-then-act: money spent twice", found_by="order", within=100)
async def account_overdrawn() -> None:
    """The balance is checked before the fraud check is awaited, and not again after it."""
    account = SimpleNamespace(balance=100)

    async def withdraw(amount: int, delay: int) -> None:
        await steps(delay)
        if account.balance >= amount:
            await steps(1)
            account.balance -= amount

    await asyncio.gather(withdraw(80, 0), withdraw(80, 3))
    assert account.balance >= 0


@healthy("checked again after the await", like=account_overdrawn)
async def account_checked_again() -> None:
    """The answer of the fraud check is awaited first; the check and the withdrawal are one step."""
    account = SimpleNamespace(balance=100)

    async def withdraw(amount: int, delay: int) -> None:
        await steps(delay + 1)
        if account.balance >= amount:
            account.balance -= amount

    await asyncio.gather(withdraw(80, 0), withdraw(80, 3))
    assert account.balance >= 0


@defect("pool over its limit", found_by="order", within=100)
async def pool_over_its_limit() -> None:
    """Room is checked before connecting, and the connection counts only once it is there."""
    connections: list[object] = []

    async def grow(delay: int) -> None:
        await steps(delay)
        if len(connections) < 2:
            await steps(1)
            connections.append(object())

    await asyncio.gather(grow(0), grow(3), grow(6))
    assert len(connections) <= 2


@healthy("what is being opened counts", like=pool_over_its_limit)
async def pool_counts_what_it_opens() -> None:
    """The place is taken before the await, and given back when connecting fails or is cancelled."""
    connections: list[object] = []
    pool = SimpleNamespace(opening=0)

    async def grow(delay: int) -> None:
        await steps(delay)
        if len(connections) + pool.opening < 2:
            pool.opening += 1
            try:
                await steps(1)
                connections.append(object())
            finally:
                pool.opening -= 1

    await asyncio.gather(grow(0), grow(3), grow(6))
    assert len(connections) <= 2
    assert pool.opening == 0


@defect("stale value put back into a cache", found_by="order", within=200)
async def stale_value_cached() -> None:
    """A reader that began before the write stores what it read after the write has cleared the cache."""
    database, cache = {"user": 1}, {}

    async def read() -> None:
        value = database["user"]
        await steps(1)
        cache["user"] = value

    async def write() -> None:
        await steps(3)
        database["user"] = 2
        cache.pop("user", None)

    await asyncio.gather(read(), write())
    assert cache.get("user", database["user"]) == database["user"]


@healthy("stored only when nothing was written meanwhile", like=stale_value_cached)
async def cache_with_a_generation() -> None:
    """Each write raises a generation; a reader of an older one does not store."""
    database, cache = {"user": 1}, {}
    state = SimpleNamespace(generation=0)

    async def read() -> None:
        generation, value = state.generation, database["user"]
        await steps(1)
        if generation == state.generation:
            cache["user"] = value

    async def write() -> None:
        await steps(3)
        database["user"] = 2
        state.generation += 1
        cache.pop("user", None)

    await asyncio.gather(read(), write())
    assert cache.get("user", database["user"]) == database["user"]


@defect("a dict changes size under a loop that awaits", found_by="order", within=100)
async def dict_changed_while_iterated() -> None:
    """The broadcast awaits inside `for name in clients`, and a client joins meanwhile."""
    clients = {"a": [], "b": []}

    async def broadcast() -> None:
        for name in clients:
            await steps(1)
            clients[name].append("hello")

    async def join() -> None:
        await steps(4)
        clients["c"] = []

    await asyncio.gather(broadcast(), join())


@healthy("iterates over a copy", like=dict_changed_while_iterated)
async def dict_copied_before_iterating() -> None:
    """`list(clients)` is one step."""
    clients = {"a": [], "b": []}

    async def broadcast() -> None:
        for name in list(clients):
            await steps(1)
            clients[name].append("hello")

    async def join() -> None:
        await steps(4)
        clients["c"] = []

    await asyncio.gather(broadcast(), join())


@defect("a list loses an element under a loop that awaits", found_by="order", within=200)
async def list_shortened_while_iterated() -> None:
    """The broadcast awaits inside `for client in clients`; one that leaves shifts the rest, and one is skipped."""
    clients = ["a", "b", "c"]
    told = []

    async def broadcast() -> None:
        for client in clients:
            told.append(client)
            await steps(1)

    async def leave() -> None:
        await steps(4)
        clients.remove("a")

    await asyncio.gather(broadcast(), leave())
    assert "c" in told
    assert "b" in told


@defect("torn read", found_by="order", within=100)
async def pair_read_between_its_writes() -> None:
    """Host and port belong together and are written with an await in between."""
    server = SimpleNamespace(host="old", port=1)
    seen = []

    async def move() -> None:
        server.host = "new"
        await steps(1)
        server.port = 2

    async def connect() -> None:
        await steps(3)
        seen.append((server.host, server.port))

    await asyncio.gather(move(), connect())
    assert seen[0] in {("old", 1), ("new", 2)}


@healthy("both written in one step", like=pair_read_between_its_writes)
async def pair_written_at_once() -> None:
    """The await comes before the two writes."""
    server = SimpleNamespace(host="old", port=1)
    seen = []

    async def move() -> None:
        await steps(1)
        server.host = "new"
        server.port = 2

    async def connect() -> None:
        await steps(3)
        seen.append((server.host, server.port))

    await asyncio.gather(move(), connect())
    assert seen[0] in {("old", 1), ("new", 2)}


@defect("flag set before the work is done", found_by="order", within=100)
async def ready_before_it_is() -> None:
    """`loaded` is set, so that nobody else loads; whoever looks now finds nothing."""
    config = SimpleNamespace(loaded=False, value=None)

    async def load() -> None:
        if not config.loaded:
            config.loaded = True
            await steps(1)
            config.value = 42

    async def use() -> None:
        await steps(3)
        if config.loaded:
            assert config.value == 42

    await asyncio.gather(load(), use())


@defect("handler that is not reentrant", found_by="order", within=100)
async def handler_shares_its_request() -> None:
    """The handler keeps the request on `self` across an await; the next request overwrites it."""
    handler = SimpleNamespace(request=None)
    answers = {}

    async def handle(request: str, delay: int) -> None:
        await steps(delay)
        handler.request = request
        await steps(1)
        answers[request] = f"answer to {handler.request}"

    await asyncio.gather(handle("a", 0), handle("b", 3))
    assert answers == {"a": "answer to a", "b": "answer to b"}


@healthy("the request is a local variable", like=handler_shares_its_request)
async def handler_keeps_its_request() -> None:
    """Nothing of one call is visible to another."""
    answers = {}

    async def handle(request: str, delay: int) -> None:
        await steps(delay)
        await steps(1)
        answers[request] = f"answer to {request}"

    await asyncio.gather(handle("a", 0), handle("b", 3))
    assert answers == {"a": "answer to a", "b": "answer to b"}


@defect("numbers given out in one order, sent in another", found_by="order", within=100)
async def numbers_overtake_each_other() -> None:
    """The sequence number is taken before the await and sent after it."""
    state = SimpleNamespace(next=0)
    wire = []

    async def send(delay: int) -> None:
        await steps(delay)
        number = state.next
        state.next += 1
        await steps(1)  # serializing the body
        wire.append(number)

    await asyncio.gather(send(0), send(3))
    assert wire == sorted(wire)


@healthy("numbered when it is sent", like=numbers_overtake_each_other)
async def numbers_taken_when_sent() -> None:
    """Number and send are one step."""
    state = SimpleNamespace(next=0)
    wire = []

    async def send(delay: int) -> None:
        await steps(delay + 1)
        wire.append(state.next)
        state.next += 1

    await asyncio.gather(send(0), send(3))
    assert wire == sorted(wire)


@defect("a future answered twice", found_by="order", within=100)
async def answered_twice() -> None:
    """Both replicas see that the future is not done, await, and set it."""
    answer = asyncio.get_running_loop().create_future()

    async def replica(name: str, delay: int) -> None:
        await steps(delay)
        if not answer.done():
            await steps(1)
            answer.set_result(name)

    await asyncio.gather(replica("a", 0), replica("b", 3))


@healthy("looked at and set in one step", like=answered_twice)
async def answered_once() -> None:
    """`done()` is asked after the last await."""
    answer = asyncio.get_running_loop().create_future()

    async def replica(name: str, delay: int) -> None:
        await steps(delay + 1)
        if not answer.done():
            answer.set_result(name)

    await asyncio.gather(replica("a", 0), replica("b", 3))


@defect("the second repair breaks what the first repaired", found_by="order", within=200)
async def reconnected_twice() -> None:
    """Two tasks notice the broken connection; the later one closes the fresh one, which the other is using."""
    link = SimpleNamespace(generation=0, broken=True)

    async def use(delay: int) -> None:
        await steps(delay)
        if link.broken:
            await steps(1)  # connecting
            link.generation += 1
            link.broken = False
        mine = link.generation
        await steps(1)
        assert link.generation == mine, "my connection was closed under me"

    await asyncio.gather(use(0), use(5))


@defect("context left behind by the item before", found_by="order", within=100)
async def tenant_of_the_item_before() -> None:
    """A worker sets the tenant for items that have one, and never resets it; the next item inherits it."""
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    for item in ("acme", None):
        queue.put_nowait(item)
    served = {}

    async def worker() -> None:
        while not queue.empty():
            item = queue.get_nowait()
            if item is not None:
                tenant.set(item)
            await steps(1)
            served[item] = tenant.get()

    await asyncio.gather(worker(), worker())
    assert served == {"acme": "acme", None: "nobody"}


@healthy("the context is reset after each item", like=tenant_of_the_item_before)
async def tenant_reset_after_each_item() -> None:
    """`reset` stands in a `finally`."""
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    queue: asyncio.Queue[str | None] = asyncio.Queue()
    for item in ("acme", None):
        queue.put_nowait(item)
    served = {}

    async def worker() -> None:
        while not queue.empty():
            item = queue.get_nowait()
            token = tenant.set(item or "nobody")
            try:
                await steps(1)
                served[item] = tenant.get()
            finally:
                tenant.reset(token)

    await asyncio.gather(worker(), worker())
    assert served == {"acme": "acme", None: "nobody"}


@defect("the set of finished tasks taken for a list", found_by="order", within=100)
async def first_of_a_set_of_tasks() -> None:
    """`done` of `asyncio.wait` may hold several tasks; taking one and forgetting the rest loses an answer."""
    answers = []

    async def ask(name: str, delay: int) -> str:
        await steps(delay)
        return name

    pending = {asyncio.create_task(ask("a", 1)), asyncio.create_task(ask("b", 4)), asyncio.create_task(ask("c", 7))}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        answers.append(done.pop().result())
    assert len(answers) == 3


@healthy("every finished task is looked at", like=first_of_a_set_of_tasks)
async def all_of_a_set_of_tasks() -> None:
    """`for task in done`."""
    answers = []

    async def ask(name: str, delay: int) -> str:
        await steps(delay)
        return name

    tasks = {asyncio.create_task(ask("a", 1)), asyncio.create_task(ask("b", 4)), asyncio.create_task(ask("c", 7))}
    pending = tasks
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            answers += [task.result() for task in done]
        assert len(answers) == 3
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@defect("answers matched to questions by the order in which they came", found_by="order", within=100)
async def completion_order_taken_for_input_order() -> None:
    """`as_completed` yields by completion; `zip` with the questions pairs them wrongly."""

    async def square(number: int) -> int:
        await steps(number)
        return number * number

    numbers = [1, 3, 5]
    tasks = [asyncio.create_task(square(number)) for number in numbers]
    answers = [await answer for answer in asyncio.as_completed(tasks)]
    assert dict(zip(numbers, answers, strict=True)) == {1: 1, 3: 9, 5: 25}


@healthy("gather keeps the order of its arguments", like=completion_order_taken_for_input_order)
async def gather_keeps_the_input_order() -> None:
    """Its result order is documented, whoever ends first."""

    async def square(number: int) -> int:
        await steps(number)
        return number * number

    numbers = [1, 3, 5]
    answers = await asyncio.gather(*[square(number) for number in numbers])
    assert dict(zip(numbers, answers, strict=True)) == {1: 1, 3: 9, 5: 25}


@defect("a lock that is looked at instead of taken", found_by="order", within=100)
async def locked_asked_before_acquire() -> None:
    """`if not lock.locked()` is meant as "only one refreshes"; with an await after it, two do, one after the other."""
    lock = asyncio.Lock()
    refreshed = []

    async def refresh(delay: int) -> None:
        await steps(delay)
        if not refreshed and not lock.locked():
            await steps(1)  # reading the credentials
            async with lock:
                await steps(1)
                refreshed.append("token")

    await asyncio.gather(refresh(0), refresh(5))
    assert len(refreshed) == 1


@defect("one task starts before the other is ready", found_by="order", within=100)
async def published_before_subscribed() -> None:
    """The publisher is started after the subscriber and believed to run after it."""
    subscribers: list[Callable[[str], None]] = []
    received: list[str] = []

    async def subscribe() -> None:
        await steps(1)
        subscribers.append(received.append)

    async def publish() -> None:
        await steps(3)
        for subscriber in subscribers:
            subscriber("news")

    await asyncio.gather(subscribe(), publish())
    assert received == ["news"]


@healthy("the publisher waits for the subscription", like=published_before_subscribed)
async def published_after_subscribed() -> None:
    """An event says that the subscriber is there."""
    subscribers: list[Callable[[str], None]] = []
    received: list[str] = []
    subscribed = asyncio.Event()

    async def subscribe() -> None:
        await steps(1)
        subscribers.append(received.append)
        subscribed.set()

    async def publish() -> None:
        await subscribed.wait()
        for subscriber in subscribers:
            subscriber("news")

    await asyncio.gather(subscribe(), publish())
    assert received == ["news"]


@defect("timers of one instant taken to fire in the order they were set", found_by="timing", within=100)
async def timers_of_one_instant() -> None:
    """asyncio promises an order only for different times; the heap of timers is not stable."""
    loop = asyncio.get_running_loop()
    fired: list[str] = []
    when = loop.time() + 1
    for name in ("first", "second"):
        loop.call_at(when, fired.append, name)
    await asyncio.sleep(2)
    assert fired == ["first", "second"]


@healthy("timers of different times", like=timers_of_one_instant)
async def timers_of_different_times() -> None:
    """The later one is set for a later time."""
    loop = asyncio.get_running_loop()
    fired: list[str] = []
    when = loop.time() + 1
    loop.call_at(when + 0.001, fired.append, "second")
    loop.call_at(when, fired.append, "first")
    await asyncio.sleep(2)
    assert fired == ["first", "second"]
