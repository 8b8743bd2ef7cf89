//! Permits: what Semaphore, BoundedSemaphore, Lock and AdaptiveLimit have in common. The machine is
//! `loopwright_core::semaphore`; beside it, for the last of them, is what learns the limit.

use loopwright_core::adaptive::{Adaptive, Begun, Outcome};
use loopwright_core::semaphore::{Acquired, Semaphore as Machine};
use loopwright_core::waiters::Ticket;
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::aio;
use crate::args;
use crate::awaitable::{self, Cached, CachesMethods, FastWith, Ready, SlowWith, Which};
use crate::gil::{self, GilCell, GilRef};
use crate::hub::{Binding, Hub, Origin};
use crate::op::{self, Enlisted, Kind, Op, Operation, Resumed, Value, Waker};
use crate::timers;

/// What an object with permits is called, and the names of its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `AdaptiveLimit`
    Adaptive,
    /// `Semaphore`
    Semaphore,
    /// `BoundedSemaphore`
    Bounded,
    /// `Lock`
    Lock,
}

impl Flavour {
    fn name(self) -> &'static str {
        match self {
            Self::Adaptive => "AdaptiveLimit",
            Self::Semaphore => "Semaphore",
            Self::Bounded => "BoundedSemaphore",
            Self::Lock => "Lock",
        }
    }

    fn acquire(self) -> &'static str {
        match self {
            Self::Adaptive => "AdaptiveLimit.acquire",
            Self::Semaphore => "Semaphore.acquire",
            Self::Bounded => "BoundedSemaphore.acquire",
            Self::Lock => "Lock.acquire",
        }
    }
}

/// What finds the limit, of permits that do.
pub struct Learning {
    pub machine: Adaptive,
    /// The exceptions, a type or a tuple of types, by which a server says that it has too much to do.
    pub overload: Py<PyAny>,
    pub name: Option<Py<PyAny>>,
}

/// The common base of Semaphore, BoundedSemaphore, Lock and AdaptiveLimit.
#[pyclass(module = "loopwright._loopwright", name = "_Permits", frozen, subclass, weakref)]
pub struct Permits(GilCell<State>);

/// What [`Permits`] is made of.
pub struct State {
    pub machine: Machine<Waker>,
    pub flavour: Flavour,
    /// The most permits there can be (BoundedSemaphore, Lock), or the most right now (AdaptiveLimit).
    pub limit: Option<i64>,
    pub learning: Option<Box<Learning>>,
    /// The permits at the beginning.
    initial: i64,
    /// Acquires so far, and how many of them had to wait.
    acquired: u64,
    waited: u64,
    binding: Binding,
    cached: Cached,
}

impl Permits {
    /// Permits of a kind.
    pub fn new(flavour: Flavour, permits: i64, limit: Option<i64>, fair: bool) -> Self {
        Self(GilCell::new(State::new(flavour, permits, limit, fair)))
    }

    /// Begins anew (`__init__`).
    pub fn reset(slf: &Bound<'_, Self>, state: State) {
        let old = std::mem::replace(&mut *Self::state(slf), state);
        drop(old);
    }

    /// What it is made of, for as long as no Python code runs.
    #[inline]
    pub fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    /// Gives `n` permits back and wakes whom they serve.
    ///
    /// # Errors
    /// `ValueError`/`RuntimeError` when that is more than were taken and the object minds; what `call_soon` raises.
    #[inline]
    pub fn give_back(slf: &Bound<'_, Self>, n: u64) -> PyResult<()> {
        let wakes = {
            let mut permits = Self::state(slf);
            if let Some(limit) = permits.limit {
                permits.check_release(n, limit)?;
            }
            permits.machine.release(n)
        };
        if wakes.is_empty() { Ok(()) } else { op::wake(slf.py(), wakes, Origin::Loop) }
    }

    /// Takes `n` permits if that needs no waiting and overtakes nobody.
    #[inline]
    fn take(slf: &Bound<'_, Self>, n: u64) -> bool {
        let mut permits = Self::state(slf);
        let taken = permits.take(n);
        let learns = permits.learning.is_some();
        drop(permits);
        if taken && learns {
            Self::begun(slf);
        }
        taken
    }

    /// A call begins, with the permit that was just taken.
    #[cold]
    fn begun(slf: &Bound<'_, Self>) {
        let now = clock(slf.py());
        if let Some(learning) = &mut Self::state(slf).learning {
            learning.machine.begin(now);
        }
    }

    /// (AdaptiveLimit) A call gives its permit back: what it raised, and when it began if that is known.
    ///
    /// # Errors
    /// As [`give_back`](Self::give_back); what `isinstance` raises.
    pub fn learn(slf: &Bound<'_, Self>, begun: Option<Begun>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let now = clock(py);
        let overload = Self::state(slf).learning.as_ref().map(|learning| learning.overload.clone_ref(py));
        let outcome = match (error, overload) {
            (None, _) => Outcome::Served,
            (Some(error), Some(overload)) if error.is_instance(overload.bind(py))? => Outcome::Overload,
            _ => Outcome::Ignored,
        };
        let (resized, freed) = {
            let mut guard = Self::state(slf);
            let permits = &mut *guard;
            if let Some(limit) = permits.limit {
                permits.check_release(1, limit)?;
            }
            let mut delta = 0;
            if let (Some(learning), Some(limit)) = (&mut permits.learning, &mut permits.limit) {
                match begun {
                    Some(begun) => learning.machine.ended_of(begun, now, outcome),
                    None => learning.machine.ended(now, outcome),
                }
                delta = i64::from(learning.machine.limit()) - *limit;
                *limit += delta;
            }
            let resized = permits.machine.resize(delta); // first: a permit too many must not be handed on
            (resized, permits.machine.release(1))
        };
        op::wake(py, resized, Origin::Loop)?;
        op::wake(py, freed, Origin::Loop)
    }

    /// (AdaptiveLimit) The call that took its permit last begins only now.
    pub fn begin_anew(slf: &Bound<'_, Self>) -> Option<Begun> {
        let now = clock(slf.py());
        Self::state(slf).learning.as_mut().map(|learning| learning.machine.begin_anew(now))
    }

    /// `async with`'s first half: the shared ready object when the way is free.
    #[inline]
    fn enter(slf: &Bound<'_, Self>, n: u64) -> PyResult<Py<PyAny>> {
        if Self::take(slf, n) {
            return Ok(Ready::get(slf.py()).into_any());
        }
        Ok(Acquire::op(slf, n, false)?.into_any())
    }

    /// References that it has to itself, by the methods it keeps bound; None if somebody else has one of those methods,
    /// and so could still use it.
    pub fn own_references(slf: &Bound<'_, Self>) -> Option<isize> {
        let permits = Self::state(slf);
        let mut bound = permits.cached.iter().flatten().map(|bound| bound.bind(slf.py()));
        bound.try_fold(0, |own, bound| (gil::references(bound) == 1).then_some(own + 1))
    }

    /// Lets go of the methods it keeps bound, which keep it alive until the next garbage collection.
    pub fn forget_methods(slf: &Bound<'_, Self>) {
        let methods = std::mem::take(&mut Self::state(slf).cached);
        drop(methods);
    }

    /// The extras of asyncio's repr: `unlocked, value:1, waiters:2`.
    pub fn describe(slf: &Bound<'_, Self>) -> PyResult<String> {
        let extras = Self::state(slf).extras();
        let class = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{class} object at {:#x} [{extras}]>", slf.as_ptr() as usize))
    }
}

impl State {
    /// Permits of a kind.
    pub fn new(flavour: Flavour, permits: i64, limit: Option<i64>, fair: bool) -> Self {
        Self {
            machine: Machine::new(permits, fair),
            flavour,
            limit,
            learning: None,
            initial: permits,
            acquired: 0,
            waited: 0,
            binding: Binding::default(),
            cached: [None, None],
        }
    }

    #[inline]
    fn take(&mut self, n: u64) -> bool {
        let taken = self.machine.try_acquire(n);
        self.acquired += u64::from(taken);
        taken
    }

    fn check_reachable(&self, n: u64) -> PyResult<()> {
        match self.limit {
            // A limit of 0 is a pause: one permit can be waited for, as with asyncio's.
            Some(limit) if n > limit.unsigned_abs().max(1) => Err(PyValueError::new_err(format!(
                "{}.acquire(n={n}) can never succeed: there are {limit} permits in all; ask for fewer or raise the limit",
                self.flavour.name()
            ))),
            _ => Ok(()),
        }
    }

    fn check_release(&self, n: u64, limit: i64) -> PyResult<()> {
        let out = limit - self.machine.available() - self.machine.reserved();
        if i64::try_from(n).is_ok_and(|n| n <= out) {
            return Ok(());
        }
        Err(match self.flavour {
            Flavour::Lock => pyo3::exceptions::PyRuntimeError::new_err("Lock is not acquired: nothing to release"),
            _ => PyValueError::new_err(format!(
                "{} released too many times: release(n={n}) while {} of {limit} permits are out",
                self.flavour.name(),
                out.max(0)
            )),
        })
    }

    fn extras(&self) -> String {
        let mut extras = String::from(if self.machine.would_block(1) { "locked" } else { "unlocked" });
        if self.flavour != Flavour::Lock {
            extras += &format!(", value:{}", self.machine.available());
        }
        if let (Flavour::Adaptive | Flavour::Bounded, Some(limit)) = (self.flavour, self.limit) {
            extras += &format!(", limit:{limit}");
        }
        if self.machine.waiting() > 0 {
            extras += &format!(", waiters:{}", self.machine.waiting());
        }
        extras
    }
}

impl FastWith for Permits {
    #[inline]
    fn try_enter(&self, py: Python<'_>) -> bool {
        let mut permits = self.0.borrow(py);
        permits.learning.is_none() && permits.take(1) // a clock may have to be asked
    }

    #[inline]
    fn try_exit(&self, py: Python<'_>, _failed: bool) -> bool {
        let mut permits = self.0.borrow(py);
        let permits = &mut *permits;
        let minds =
            permits.learning.is_some() || permits.limit.is_some_and(|limit| permits.machine.available() >= limit);
        // Whoever waits is served on the slow way: that calls into the loop.
        !minds && permits.machine.waiting() == 0 && permits.machine.release(1).is_empty()
    }

    fn slow() -> &'static SlowWith {
        static SLOW: SlowWith = SlowWith::new();
        &SLOW
    }
}

impl CachesMethods for Permits {
    #[inline]
    fn cached(slf: &Bound<'_, Self>, which: Which) -> Option<Py<PyAny>> {
        Self::state(slf).cached[which as usize].as_ref().map(|bound| bound.clone_ref(slf.py()))
    }

    fn cache(slf: &Bound<'_, Self>, which: Which, bound: Py<PyAny>) {
        let old = Self::state(slf).cached[which as usize].replace(bound);
        drop(old);
    }
}

#[pymethods]
impl Permits {
    /// Permits that are free: neither held nor reserved for a waiter that was woken.
    #[getter]
    fn value(&self, py: Python<'_>) -> i64 {
        self.0.borrow(py).machine.available()
    }

    /// Waiters: those in line, and those woken that have not run yet.
    #[getter]
    fn waiting(&self, py: Python<'_>) -> usize {
        self.0.borrow(py).machine.waiting()
    }

    /// Whether `acquire()` would have to wait.
    fn locked(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).machine.would_block(1)
    }

    /// Whether it is as good as new: all permits of the beginning are free, no more and no less, nobody waits, and the
    /// limit is what it was. :class:`Keyed` gives up no other.
    fn is_quiescent(&self, py: Python<'_>) -> bool {
        let permits = self.0.borrow(py);
        let machine = &permits.machine;
        if permits.learning.is_some() {
            return permits.limit == Some(machine.available()) && machine.waiting() == 0;
        }
        let as_it_was = permits.limit.is_none_or(|limit| limit == permits.initial);
        as_it_was && machine.available() == permits.initial && machine.waiting() == 0
    }

    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::enter(slf, 1)
    }

    fn __aexit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<Ready>> {
        let learns = Self::state(slf).learning.is_some();
        if learns {
            Self::learn(slf, None, (!error.is_none()).then_some(error))?;
        } else {
            Self::give_back(slf, 1)?;
        }
        Ok(Ready::get(slf.py()))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Self::describe(slf)
    }

    /// `(value, limit, waiting, acquired, waited, fair)`: what `stats()` of the subclasses is made of.
    fn _stats(&self, py: Python<'_>) -> (i64, Option<i64>, usize, u64, u64, bool) {
        let permits = self.0.borrow(py);
        let machine = &permits.machine;
        (machine.available(), permits.limit, machine.waiting(), permits.acquired, permits.waited, machine.is_fair())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |permits| {
            permits.machine.wakers().try_for_each(|waker| waker.traverse(&visit))?;
            permits.cached.iter().flatten().try_for_each(|bound| visit.call(bound))?;
            if let Some(learning) = &permits.learning {
                visit.call(&learning.overload)?;
                visit.call(&learning.name)?;
            }
            permits.binding.traverse(&visit)
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = std::mem::replace(&mut *self.0.borrow(py), State::new(Flavour::Semaphore, 0, None, true));
        drop(cleared);
    }
}

/// `acquire(n)`.
pub struct Acquire {
    permits: Py<Permits>,
    n: u64,
    name: &'static str,
    /// `acquire` answers True, as asyncio's does; `async with` binds None.
    answers: bool,
}

impl Acquire {
    /// The operation, not started.
    ///
    /// # Errors
    /// `ValueError` when there will never be `n` permits.
    pub fn op(permits: &Bound<'_, Permits>, n: u64, answers: bool) -> PyResult<Py<Op>> {
        let name = {
            let permits = Permits::state(permits);
            permits.check_reachable(n)?;
            permits.flavour.acquire()
        };
        Op::new(permits.py(), Kind::Acquire(Self { permits: permits.clone().unbind(), n, name, answers }))
    }

    /// Drops its references, see [`awaitable::give_up`].
    pub fn give_up(self, py: Python<'_>) {
        awaitable::give_up(py, self.permits);
    }

    fn answer(&self, py: Python<'_>) -> Value {
        self.answers.then(|| op::yes(py))
    }
}

impl Operation for Acquire {
    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.permits.as_any())
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn at_once(&mut self, py: Python<'_>) -> Option<Value> {
        let mut permits = self.permits.get().0.borrow(py);
        (permits.learning.is_none() && permits.take(self.n)).then(|| self.answer(py))
    }

    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        let taken = Permits::take(self.permits.bind(py), self.n);
        Ok(taken.then(|| self.answer(py)))
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        if Permits::take(self.permits.bind(py), self.n) {
            return Ok(Enlisted::Done(self.answer(py)));
        }
        let mut guard = Permits::state(self.permits.bind(py));
        let permits = &mut *guard;
        permits.binding.claim(hub, permits.machine.waiting(), permits.flavour.name())?;
        permits.waited += 1;
        let (ticket, wakes) = permits.machine.wait(self.n, waker);
        drop(guard);
        op::wake(py, wakes, Origin::Loop)?;
        Ok(Enlisted::Waits(ticket))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        let mut permits = Permits::state(self.permits.bind(py));
        if permits.machine.resume(ticket) == Acquired::No {
            return Ok(Resumed::Again);
        }
        permits.acquired += 1;
        let waiting = permits.machine.waiting();
        let unbound = permits.binding.release(waiting);
        let learns = permits.learning.is_some();
        drop(permits);
        drop(unbound);
        if learns {
            Permits::begun(self.permits.bind(py));
        }
        Ok(Resumed::Done(self.answer(py)))
    }

    fn enlist_again(&mut self, hub: &Bound<'_, Hub>, ticket: Ticket, waker: Waker) -> PyResult<()> {
        let py = hub.py();
        let again = Permits::state(self.permits.bind(py)).machine.wait_again(ticket, waker);
        match again {
            Ok(wakes) => op::wake(py, wakes, Origin::Loop),
            Err(_) => Err(pyo3::exceptions::PyRuntimeError::new_err("the waiter was not woken")),
        }
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        let (wakes, unbound) = {
            let mut permits = Permits::state(self.permits.bind(py));
            let wakes = permits.machine.leave(ticket);
            let waiting = permits.machine.waiting();
            (wakes, permits.binding.release(waiting))
        };
        drop(unbound);
        op::wake(py, wakes, Origin::Loop)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.permits)
    }
}

/// `async with semaphore.permit(n)`: `n` permits for the length of a block.
///
/// Made by :meth:`Semaphore.permit`; can be entered any number of times, also concurrently.
#[pyclass(module = "loopwright._loopwright", name = "Permit", frozen)]
pub struct Permit {
    permits: Py<Permits>,
    n: u64,
}

impl Permit {
    /// The context manager for `n` permits.
    ///
    /// # Errors
    /// `ValueError` when there will never be `n` permits.
    pub fn new(permits: &Bound<'_, Permits>, n: u64) -> PyResult<Self> {
        Permits::state(permits).check_reachable(n)?;
        Ok(Self { permits: permits.clone().unbind(), n })
    }
}

#[pymethods]
impl Permit {
    fn __aenter__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Permits::enter(self.permits.bind(py), self.n)
    }

    fn __aexit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<Ready>> {
        Permits::give_back(self.permits.bind(py), self.n)?;
        Ok(Ready::get(py))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<permit({}) of {}>", self.n, Permits::describe(self.permits.bind(py))?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.permits)
    }
}

/// Reads `n` and takes as many permits if that needs no waiting.
///
/// # Errors
/// As [`args::permits`], and `ValueError` when there will never be that many.
pub fn try_acquire(slf: &Bound<'_, Permits>, n: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
    let n = args::permits(n, "n")?;
    Permits::state(slf).check_reachable(n)?;
    Ok(Permits::take(slf, n))
}

/// The running loop's time, or the system's where none runs.
fn clock(py: Python<'_>) -> f64 {
    aio::hub(py).and_then(|hub| Hub::now(hub.bind(py))).unwrap_or_else(|_| timers::coarse())
}
