"""The table: one hand-broken variant of the core per row, and the tests that have to notice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTANTS", "Mutant", "batches"]

LIMITS = (
    "tests/test_limits.py",
    "promise_1_a_cancel_at_every_step or promise_1_random_cancels or promise_2 or promise_4",
)
QUEUE = ("tests/test_queue.py", "promise_6 or overtake")
MAP = ("tests/test_mapping.py", "sweep or random_cancels")
KEYED = ("tests/test_keyed.py", "in_use or refers or keeps_it or come_back")
ADAPTIVE = ("tests/test_adaptive_limit.py", "settles or waits_for_an_item or overload_makes")
BATCH = ("tests/test_batcher.py", "harms_no_other")
MONITORING = ("tests/test_monitoring.py", "told or hides_nobody")
LOGS = ("tests/test_logs.py", "drops_are_counted or gap_is_reported")
PROCESS = ("tests/test_processes.py", "hold_nothing or tail_is_kept or comes_in_pieces")
RETRY = ("tests/test_retry.py", "promise_9 and not cancel")
POOL = ("tests/test_pool_gates.py", "nothing_is_lost_whoever or random_parameters")
RATE = ("tests/test_rate_limiter.py", "one_after_the_other or starved or overtakes or runs_late or at_every_step")
BREAKER = ("tests/test_breaker.py", "probes_that_fail or no_more_probes or comes_in_late")
OFFLOAD = ("tests/test_offload.py", "abandoned or limit or never_begins or many_calls")
ACROSS = ("tests/test_promises.py", "every_step or random_cancels")

MEETS = {
    LIMITS: {"semaphore", "event"},
    QUEUE: {"queue"},
    MAP: {"map", "semaphore"},
    KEYED: {"keyed", "semaphore", "event", "queue"},
    ADAPTIVE: {"adaptive", "keyed", "map"},
    BATCH: {"batch", "map"},
    MONITORING: {"stopwatch", "semaphore"},
    LOGS: {"log_buffer"},
    PROCESS: {"output", "process"},
    RETRY: {"retry"},
    POOL: {"pool"},
    RATE: {"gcra", "keyed"},
    BREAKER: {"breaker", "keyed", "gcra"},
    OFFLOAD: {"offload", "semaphore", "map"},
}
"""Which machines a file of tests can meet, by what it imports. Mutants whose tests do not meet each other's machines
are built together: to build is most of what this run costs. tests/mutations/run.py has a control for this table."""

SHARED = {"waiters", "deadlines", "scope"}
"""Machines that others stand on, or that every file of tests meets: their mutants are built alone."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One break: in ``file``, ``find`` (which has to be there exactly once) becomes ``replace``."""

    name: str
    file: str
    find: str
    replace: str
    tests: tuple[str, str]
    """A file of tests and the ``-k`` expression that chooses among them."""

    @property
    def machine(self) -> str:
        """The machine that is broken: its file, or its folder."""
        parts = self.file.removesuffix(".rs").split("/")
        return "pool" if "pool" in parts else parts[-1]

    def goes_with(self, other: Mutant) -> bool:
        """Whether neither's tests can notice the other."""
        return not {self.machine, other.machine} & SHARED and not (
            self.machine in MEETS[other.tests] or other.machine in MEETS[self.tests]
        )


def batches(mutants: list[Mutant]) -> list[list[Mutant]]:
    """The mutants, in as few builds as a greedy choice finds."""
    found: list[list[Mutant]] = []
    for mutant in mutants:
        for batch in found:
            if all(mutant.goes_with(other) for other in batch):
                batch.append(mutant)
                break
        else:
            found.append([mutant])
    return found


MUTANTS = [
    Mutant(
        "semaphore: a grant is dropped",
        "crates/core/src/semaphore.rs",
        "        self.available += signed(n);\n        self.serve()\n    }\n\n    /// The number of permits changes",
        "        self.available += signed(n);\n        drop(self.serve());\n        Wakes::default()\n    }\n\n"
        "    /// The number of permits changes",
        LIMITS,
    ),
    Mutant(
        "semaphore: no rollback when a woken waiter leaves",
        "crates/core/src/semaphore.rs",
        "            && self.fair\n        {\n            self.available += signed(n);",
        "            && !self.fair\n        {\n            self.available += signed(n);",
        LIMITS,
    ),
    Mutant(
        "semaphore: a permit is handed on twice",
        "crates/core/src/semaphore.rs",
        "            && self.fair\n        {\n            self.available += signed(n);",
        "            && self.fair\n        {\n            self.available += 2 * signed(n);",
        LIMITS,
    ),
    Mutant(
        "semaphore: who leaves does not wake the next",
        "crates/core/src/semaphore.rs",
        "            self.available += signed(n);\n        }\n        self.serve()",
        "            self.available += signed(n);\n        }\n        Wakes::default()",
        LIMITS,
    ),
    Mutant(
        "semaphore: a big request at the head is skipped by newcomers",
        "crates/core/src/semaphore.rs",
        "self.available < signed(n) || (self.fair && self.waiting() > 0)",
        "self.available < signed(n)",
        LIMITS,
    ),
    Mutant(
        "semaphore: the weight of the head is ignored",
        "crates/core/src/semaphore.rs",
        "                let enough = *available >= signed(n);",
        "                let enough = *available >= 1;",
        LIMITS,
    ),
    Mutant(
        "waiters: last come, first served",
        "crates/core/src/waiters.rs",
        "    fn take_front(&mut self, state: State) -> Option<W> {\n        let index = self.head;",
        "    fn take_front(&mut self, state: State) -> Option<W> {\n        let index = self.tail;",
        LIMITS,
    ),
    Mutant(
        "event: a woken waiter stays out when the flag is cleared",
        "crates/core/src/event.rs",
        "matches!(self.waiters.resume(ticket), Resumed::Granted(_))",
        "matches!(self.waiters.resume(ticket), Resumed::Granted(_)) && self.set",
        LIMITS,
    ),
    Mutant(
        "queue: the place of a cancelled put is not handed on",
        "crates/core/src/queue.rs",
        "match self.putters.leave(ticket) {\n            Left::Reservation(_) => self.settle(),",
        "match self.putters.leave(ticket) {\n            Left::Reservation(_) => Wakes::default(),",
        QUEUE,
    ),
    Mutant(
        "queue: the item of a cancelled get is not handed on",
        "crates/core/src/queue.rs",
        "match self.getters.leave(ticket) {\n            Left::Reservation(_) => self.settle(),",
        "match self.getters.leave(ticket) {\n            Left::Reservation(_) => Wakes::default(),",
        QUEUE,
    ),
    Mutant(
        "queue: newcomers take what was promised to woken getters",
        "crates/core/src/queue.rs",
        "self.stored.saturating_sub(self.claims + self.getters.granted())",
        "self.stored.saturating_sub(self.claims)",
        QUEUE,
    ),
    Mutant(
        "queue: join counts one too few",
        "crates/core/src/queue.rs",
        "        if self.unfinished == 0 { self.joiners.grant_while(|_| true) }",
        "        if self.unfinished <= 1 { self.joiners.grant_while(|_| true) }",
        QUEUE,
    ),
    Mutant(
        "gcra: what is granted and has not passed is paid off",
        "crates/core/src/gcra.rs",
        "        self.debt = (self.debt - step * self.rate).max(as_f64(self.waiters.reserved()));",
        "        self.debt = (self.debt - step * self.rate).max(0.0);",
        RATE,
    ),
    Mutant(
        "gcra: what a cancelled waiter was granted is used up",
        "crates/core/src/gcra.rs",
        "            Left::Reservation(n) => self.debt = (self.debt - as_f64(n)).max(as_f64(self.waiters.reserved())),",
        "            Left::Reservation(_) => {}",
        RATE,
    ),
    Mutant(
        "gcra: a newcomer overtakes the line",
        "crates/core/src/gcra.rs",
        "        let admitted = self.waiting() == 0 && self.fits(n);",
        "        let admitted = self.fits(n);",
        RATE,
    ),
    Mutant(
        "breaker: a cancelled probe keeps its place",
        "crates/core/src/breaker.rs",
        "        if in_time && self.state == State::HalfOpen {\n            self.probing -= 1;",
        "        if in_time && self.state == State::HalfOpen && verdict != Verdict::Nothing {\n"
        "            self.probing -= 1;",
        BREAKER,
    ),
    Mutant(
        "breaker: a late call counts as a probe",
        "crates/core/src/breaker.rs",
        "        if !in_time {\n            return None;\n        }\n        if self.state == State::HalfOpen {",
        "        if self.state == State::HalfOpen {",
        BREAKER,
    ),
    Mutant(
        "breaker: one probe more than agreed",
        "crates/core/src/breaker.rs",
        "            State::HalfOpen if self.probing + self.probed.calls < self.config.half_open => {",
        "            State::HalfOpen if self.probing + self.probed.calls <= self.config.half_open => {",
        BREAKER,
    ),
    Mutant(
        "deadlines: the timer is off by one",
        "crates/core/src/deadlines.rs",
        "        if self.at <= when || self.soon {",
        "        if self.at <= when + 1.0 || self.soon {",
        ACROSS,
    ),
    Mutant(
        "deadlines: the heap looks at one child only",
        "crates/core/src/deadlines.rs",
        "            if child + 1 < self.heap.len() && self.heap[child + 1].before(&self.heap[child]) {",
        "            if child + 1 > self.heap.len() && self.heap[child + 1].before(&self.heap[child]) {",
        ACROSS,
    ),
    Mutant(
        "scope: an error is lost",
        "crates/core/src/scope.rs",
        "                self.errors.push(error);\n                self.policy == Policy::FirstFailure",
        "                if self.errors.is_empty() {\n                    self.errors.push(error);\n                }\n"
        "                self.policy == Policy::FirstFailure",
        ACROSS,
    ),
    Mutant(
        "scope: the limit is off by one",
        "crates/core/src/scope.rs",
        "        self.alive + self.spawners.granted() >= self.limit",
        "        self.alive + self.spawners.granted() > self.limit",
        ACROSS,
    ),
    Mutant(
        "scope: the slot of a cancelled spawn is not handed on",
        "crates/core/src/scope.rs",
        "            Left::Reservation(_) => self.serve(),",
        "            Left::Reservation(_) => Wakes::default(),",
        ACROSS,
    ),
    Mutant(
        "map: the window is off by one",
        "crates/core/src/map.rs",
        "                Some(limit) => self.running + self.waiting < limit,",
        "                Some(limit) => self.running + self.waiting <= limit,",
        MAP,
    ),
    Mutant(
        "map: results out of order",
        "crates/core/src/map.rs",
        "                self.places[index - first].1 = Some(result);",
        "                let hole = self.places.iter().position(|place| place.1.is_none());\n"
        "                self.places[hole.unwrap_or(index - first)].1 = Some(result);",
        MAP,
    ),
    Mutant(
        "pool: one more connection than agreed",
        "crates/core/src/pool/config.rs",
        "        self.max_size.saturating_add(self.burst)",
        "        self.max_size.saturating_add(self.burst) + 1",
        POOL,
    ),
    Mutant(
        "pool: room is free at the return, not at the close",
        "crates/core/src/pool/conns.rs",
        "        self.0.iter().sum()\n",
        "        self.0.iter().sum::<usize>() - self.of(State::Closing)\n",
        POOL,
    ),
    Mutant(
        "pool: what a cancelled waiter was granted is lost",
        "crates/core/src/pool/mod.rs",
        "                if self.take_back(conn.index) {\n                    self.arrive(conn.index, now, out);",
        "                if !self.take_back(conn.index) {\n                    self.arrive(conn.index, now, out);",
        POOL,
    ),
    Mutant(
        "pool: what is dirty goes to the next",
        "crates/core/src/pool/mod.rs",
        "                if condition == Condition::Dirty && exclusive {",
        "                if condition == Condition::Dirty && !exclusive {",
        POOL,
    ),
    Mutant(
        "pool: after a failed connect nobody tries again",
        "crates/core/src/pool/clockwork.rs",
        "            None => self.keys[key].retry = Some(self.timers.insert(when, Timer::Retry(key))),",
        "            None => self.keys[key].retry = Some(self.timers.insert(f64::INFINITY, Timer::Retry(key))),",
        POOL,
    ),
    Mutant(
        "pool: a hook that hangs keeps its room",
        "crates/core/src/pool/clockwork.rs",
        "        if limit.is_finite() {\n            self.conns[index].hook =",
        "        if limit.is_nan() {\n            self.conns[index].hook =",
        POOL,
    ),
    Mutant(
        "pool: closed before its connections are",
        "crates/core/src/pool/supply.rs",
        "        if self.draining && !self.drained && self.tally.held() == 0 && self.waiting == 0 {",
        "        if self.draining && !self.drained && self.tally.staying() == 0 && self.waiting == 0 {",
        POOL,
    ),
    Mutant(
        "keyed: somebody else's reference is overlooked",
        "crates/python/src/keyed.rs",
        "        Some(own) => gil::references(value) > 2 + own + others,",
        "        Some(own) => gil::references(value) > 3 + own + others,",
        KEYED,
    ),
    Mutant(
        "keyed: what is in use stays first in line",
        "crates/core/src/keyed.rs",
        "        if !rests {\n            self.use_now(seen.index);\n            return Settled::Kept;",
        "        if !rests {\n            return Settled::Kept;",
        KEYED,
    ),
    Mutant(
        "keyed: what was asked for meanwhile is given up",
        "crates/core/src/keyed.rs",
        "        self.entries.get(seen.index).filter(|entry| entry.used == seen.used)",
        "        self.entries.get(seen.index).filter(|entry| entry.used >= seen.used)",
        KEYED,
    ),
    Mutant(
        "log_buffer: where lines were dropped is forgotten",
        "crates/core/src/log_buffer.rs",
        "        let lost = std::mem::take(&mut self.filling.lost);",
        "        let lost = 0;\n        self.filling.lost = 0;",
        LOGS,
    ),
    Mutant(
        "log_buffer: small talk takes all the room",
        "crates/core/src/log_buffer.rs",
        "if matters { self.limit } else { self.limit - self.limit / 8 }",
        "if matters { self.limit } else { self.limit }",
        LOGS,
    ),
    Mutant(
        "log_buffer: a gap alone is nothing to write",
        "crates/core/src/log_buffer.rs",
        "        self.lines.is_empty() && self.lost == 0",
        "        self.lines.is_empty()",
        LOGS,
    ),
    Mutant(
        "process: what holds no output outlives the call",
        "crates/core/src/process.rs",
        "            (Phase::Running, _) => self.end(now),",
        "            (Phase::Running, _) => self.over(),",
        PROCESS,
    ),
    Mutant(
        "output: the first bytes are kept",
        "crates/core/src/output.rs",
        "        let kept = &chunk[chunk.len().saturating_sub(self.most)..];",
        "        let kept = &chunk[..chunk.len().min(self.most)];",
        PROCESS,
    ),
    Mutant(
        "output: a long line is cut within a character",
        "crates/core/src/output.rs",
        "            if byte & 0xC0 != 0x80 {",
        "            if byte != 0 {",
        PROCESS,
    ),
    Mutant(
        "retry: the jitter is drawn before the cap",
        "crates/core/src/retry.rs",
        "            Jitter::Full => cap * rng.unit(),",
        "            Jitter::Full => (self.base * 2_f64.powi(doublings) * rng.unit()).min(self.max_delay),",
        RETRY,
    ),
    Mutant(
        "retry: a delay that does not fit is begun",
        "crates/core/src/retry.rs",
        "        if delay >= left.unwrap_or(f64::INFINITY) {",
        "        if delay >= left.map_or(f64::INFINITY, |left| left + 5.0) {",
        RETRY,
    ),
    Mutant(
        "retry: what was taken from the budget is not counted",
        "crates/core/src/retry.rs",
        "            self.slot(self.current).retries += 1.0;\n",
        "            self.slot(self.current).retries += 0.0;\n",
        RETRY,
    ),
    Mutant(
        "stopwatch: who is overdue is told each time",
        "crates/core/src/stopwatch.rs",
        "                entry.told = true;",
        "                entry.told = false;",
        MONITORING,
    ),
    Mutant(
        "stopwatch: a slow call is counted while it runs and once more when it has ended",
        "crates/core/src/stopwatch.rs",
        "u64::from(slow && !entry.told)",
        "u64::from(slow)",
        MONITORING,
    ),
    Mutant(
        "stopwatch: who ends in the middle hides those after it",
        "crates/core/src/stopwatch.rs",
        "Some(before) => before.next = entry.next,",
        "Some(before) => before.next = NONE,",
        MONITORING,
    ),
    Mutant(
        "adaptive: twice the delay without a queue is no queue",
        "crates/core/src/adaptive.rs",
        "(TOLERANCE * base / mean).clamp(0.5, 1.0)",
        "(2.0 * base / mean).clamp(0.5, 1.0)",
        ADAPTIVE,
    ),
    Mutant(
        "adaptive: a limit that is not reached grows",
        "crates/core/src/adaptive.rs",
        "        let full = self.peak >= usize::try_from(self.limit()).unwrap_or(usize::MAX);",
        "        let full = self.peak <= usize::try_from(self.limit()).unwrap_or(usize::MAX);",
        ADAPTIVE,
    ),
    Mutant(
        "adaptive: every call of one overload makes it smaller",
        "crates/core/src/adaptive.rs",
        "                self.set(self.limit * self.config.backoff);\n                return;",
        "                self.limit *= self.config.backoff;\n                return;",
        ADAPTIVE,
    ),
    Mutant(
        "batch: a withdrawn request stays",
        "crates/core/src/batch.rs",
        "            Ok(place) => self.waiting.remove(place).is_some(),",
        "            Ok(place) => self.waiting.get(place).is_some(),",
        BATCH,
    ),
    Mutant(
        "offload: abandoned work gives its permit back at once",
        "crates/core/src/offload.rs",
        "        self.running[kind] -= 1;\n        self.abandoned[kind] += 1;",
        "        self.running[kind] -= 1;",
        OFFLOAD,
    ),
    Mutant(
        "offload: work that is withdrawn is not told from work that has ended",
        "crates/core/src/offload.rs",
        "                *self = Self::Ended;\n                Parting::Withdrawn",
        "                *self = Self::Ended;\n                Parting::TooLate",
        OFFLOAD,
    ),
    Mutant(
        "offload: one call more than the limit",
        "crates/core/src/offload.rs",
        "        all < self.limit && self.caps[kind]",
        "        all <= self.limit && self.caps[kind]",
        OFFLOAD,
    ),
]
