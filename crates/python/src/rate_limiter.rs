//! RateLimiter: so much per second, whoever asks. The machine is `loopwright_core::gcra`.
//!
//! Lives here: the clock that is read, the one timer (of the first in line, on the loop of its task), and who is woken
//! where: a limiter belongs to no loop, so those in line may be of several, in several threads.

use loopwright_core::deadlines::Key;
use loopwright_core::gcra::{Admitted, Gcra};
use loopwright_core::waiters::{Ticket, Wakes};
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::aio;
use crate::args;
use crate::awaitable::{self, FastWith, Ready, SlowWith};
use crate::clocks::{Reading, Shown};
use crate::fut::Fut;
use crate::gil::{GilCell, GilRef};
use crate::hub::{Hub, Origin};
use crate::op::{self, Enlisted, Kind, Op, Operation, Resumed, Value, Waker};
use crate::semaphore;
use crate::timeout::Timeout;
use crate::timers::Deadline;

/// At most ``rate`` per ``per`` seconds, in the order of arrival: ``RateLimiter(100)``, ``RateLimiter(600, per=60)``.
///
/// Over any window of ``t`` seconds it lets no more than ``rate / per * t + burst`` through, whatever is cancelled when.
/// That is the generic cell rate algorithm (GCRA, ITU-T I.371): no window that starts anew, no counter to be reset, no
/// double share around a full minute.
///
/// Waiters are served in the order in which they came, weighted ones included: a big request is not starved by small
/// ones, and nobody who comes later overtakes. What a cancelled waiter was about to get goes to the next one in the same
/// turn of the loop, and it still gets its ``CancelledError``. Who has a deadline (:func:`timeout`) that passes before
/// its turn would come is told so at once, instead of waiting in vain.
///
/// Args:
///     rate: how many per ``per`` seconds; more than 0, a fraction too.
///     per: seconds.
///     burst: how many may pass at once after a pause, 1 or more. Not given: ``rate``, rounded down, as many as pass in
///         ``per`` seconds. 1 spaces them evenly. It adds to the rate: a server that counts 100 in each minute of its
///         own clock is obeyed by ``RateLimiter(100, per=60, burst=1)``, not by a burst of 100.
///
/// Raises:
///     ValueError: an argument is out of range.
///     TypeError: an argument is not a number.
///
/// Thread-safe, and bound to no event loop: tasks of several loops may stand in one line, and each is woken in its own.
/// Time is that of the running loop where that is not the system's (virtual time), else the system's.
#[pyclass(module = "loopwright", name = "RateLimiter", frozen, subclass, weakref)]
pub struct RateLimiter(GilCell<State>);

struct State {
    machine: Gcra<Waker>,
    shown: Shown,
    /// As they were given.
    rate: f64,
    per: f64,
    /// The rate per second and the burst of the beginning.
    initial: (f64, u64),
    timer: Timer,
    acquired: u64,
    admitted: u64,
    waited: u64,
    refused: u64,
}

/// Who sees to the first in line.
enum Timer {
    /// Nobody.
    Off,
    /// A deadline, on this loop, at this time of its clock.
    Set(Py<Hub>, Key, f64),
    /// This loop was asked, from another thread, to set one.
    Asked(Py<Hub>),
}

/// A timer that goes off later than it should by no more than this is left alone.
const CLOSE_ENOUGH: f64 = 1e-9;

/// The largest whole number up to which an f64 counts in ones.
const MOST: i64 = 1 << 53;

impl State {
    fn new(rate: f64, per: f64, burst: u64) -> Self {
        let initial = (rate / per, burst);
        Self {
            machine: Gcra::new(initial.0, burst),
            shown: Shown::default(),
            rate,
            per,
            initial,
            timer: Timer::Off,
            acquired: 0,
            admitted: 0,
            waited: 0,
            refused: 0,
        }
    }

    #[inline]
    fn see(&mut self, reading: Reading) -> f64 {
        self.shown.see(reading, |now| self.machine.change_clock(now))
    }

    #[inline]
    fn take(&mut self, n: u64, reading: Reading) -> bool {
        let now = self.see(reading);
        let taken = self.machine.try_acquire(n, now);
        if taken {
            self.count(n);
        }
        taken
    }

    fn count(&mut self, n: u64) {
        self.acquired += 1;
        self.admitted += n;
    }

    fn check_reachable(&self, n: u64, what: &str) -> PyResult<()> {
        if n <= self.machine.burst() {
            return Ok(());
        }
        Err(PyValueError::new_err(format!(
            "RateLimiter.{what}(n={n}) can never succeed: burst={}, and never does more pass at once; ask for less at a \
             time, or raise the burst",
            self.machine.burst()
        )))
    }
}

/// Whether the loop of a hub was closed.
fn is_gone(hub: &Bound<'_, Hub>) -> bool {
    let py = hub.py();
    let closed = hub.get().event_loop(py).and_then(|event_loop| event_loop.call_method0(intern!(py, "is_closed")));
    closed.and_then(|closed| closed.is_truthy()).unwrap_or(true)
}

/// Reads `rate`, `per` and `burst`.
fn read(
    what: &str,
    rate: &Bound<'_, PyAny>,
    per: Option<&Bound<'_, PyAny>>,
    burst: Option<&Bound<'_, PyAny>>,
) -> PyResult<(f64, f64, u64)> {
    let rate = args::positive(rate, &format!("{what}(rate=...)"))?;
    let per = per.map_or(Ok(1.0), |per| args::positive(per, &format!("{what}(per=...)")))?;
    if !(rate / per).is_normal() {
        return Err(PyValueError::new_err(format!("{what}({rate}, per={per}) is not a rate to count with")));
    }
    let what = format!("{what}(burst=...)");
    let burst = match burst.filter(|burst| !burst.is_none()) {
        Some(burst) => args::count(burst, &what, 1)?,
        #[allow(clippy::cast_possible_truncation, reason = "saturates, and is too large then")]
        None => (rate as i64).max(1),
    };
    if burst > MOST {
        return Err(PyValueError::new_err(format!("{what} is out of range: {burst}; give one of {MOST} at the most")));
    }
    Ok((rate, per, burst.unsigned_abs()))
}

impl RateLimiter {
    #[inline]
    fn state<'a>(slf: &'a Bound<'_, Self>) -> GilRef<'a, State> {
        slf.get().0.borrow(slf.py())
    }

    /// The loop's timer for the first in line went off.
    ///
    /// # Errors
    /// What waking raises.
    pub fn go_off(slf: &Bound<'_, Self>) -> PyResult<()> {
        let spent = std::mem::replace(&mut Self::state(slf).timer, Timer::Off);
        drop(spent);
        Self::serve(slf)
    }

    fn serve(slf: &Bound<'_, Self>) -> PyResult<()> {
        let reading = Reading::take(slf.py());
        let wakes = {
            let mut limiter = Self::state(slf);
            let now = limiter.see(reading);
            limiter.machine.serve(now)
        };
        Self::carry_out(slf, wakes)
    }

    /// Wakes each in its own loop, and sees to who is first now.
    fn carry_out(slf: &Bound<'_, Self>, wakes: Wakes<Waker>) -> PyResult<()> {
        let py = slf.py();
        let mut outcome = Ok(());
        for waker in wakes {
            match waker {
                Waker::Task(fut) => {
                    let here = aio::is_running(py, fut.get().hub());
                    let woken = Fut::wake(fut.bind(py), if here { Origin::Loop } else { Origin::Thread });
                    // A loop of another thread that was closed with this waiter in line concerns nobody here.
                    outcome = outcome.and(if here { woken } else { Ok(()) });
                }
                Waker::Thread(thread) => thread.wake(),
            }
        }
        outcome.and(Self::set_timer(slf))
    }

    /// Makes sure that somebody serves the first in line when its turn comes.
    fn set_timer(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        loop {
            let reading = Reading::take(py);
            let (when, hub, timer) = {
                let mut limiter = Self::state(slf);
                let now = limiter.see(reading);
                let first = match limiter.machine.first() {
                    Some(Waker::Task(fut)) => Some(fut.get().hub().clone_ref(py)),
                    Some(Waker::Thread(_)) | None => None,
                };
                let when = limiter.machine.wake_at(now);
                (when, first, std::mem::replace(&mut limiter.timer, Timer::Off))
            };
            let (Some(when), Some(hub)) = (when, hub) else {
                if let Timer::Set(hub, key, _) = timer {
                    drop(Hub::remove_deadline(hub.bind(py), key));
                }
                return Ok(());
            };
            let here = aio::is_running(py, &hub);
            if !here && is_gone(hub.bind(py)) {
                if let Timer::Set(own, key, _) = timer {
                    drop(Hub::remove_deadline(own.bind(py), key));
                }
                // Its loop was closed under it: nobody will ever run there. The next in line.
                Self::state(slf).machine.skip_first();
                continue;
            }
            match timer {
                // Its own loop's clock tells when; if that is another one than here, leave it to the timer.
                Timer::Set(own, key, set) if own.is(&hub) => {
                    let late = if here { set - reading.on_loop(hub.bind(py), when)? } else { set - when };
                    if late <= CLOSE_ENOUGH {
                        Self::state(slf).timer = Timer::Set(own, key, set);
                        return Ok(());
                    }
                    drop(Hub::remove_deadline(own.bind(py), key));
                }
                Timer::Set(own, key, _) => drop(Hub::remove_deadline(own.bind(py), key)),
                Timer::Asked(own) if own.is(&hub) && !here => {
                    Self::state(slf).timer = Timer::Asked(own);
                    return Ok(());
                }
                Timer::Asked(_) | Timer::Off => {}
            }
            if here {
                let hub_bound = hub.bind(py);
                let when = reading.on_loop(hub_bound, when)?;
                let key =
                    Hub::add_deadline(hub_bound, when, Hub::now(hub_bound)?, Deadline::Limiter(slf.clone().unbind()))?;
                let old = std::mem::replace(&mut Self::state(slf).timer, Timer::Set(hub, key, when));
                drop(old);
                return Ok(());
            }
            let serve = slf.getattr(intern!(py, "_serve"))?;
            hub.get().event_loop(py)?.call_method1(intern!(py, "call_soon_threadsafe"), (serve,))?;
            let old = std::mem::replace(&mut Self::state(slf).timer, Timer::Asked(hub));
            drop(old);
            return Ok(());
        }
    }

    /// `RateLimitExceeded` for a wait that ends after the deadline.
    fn too_late(&self, py: Python<'_>, n: u64, wait: f64, left: f64) -> PyErr {
        let (rate, per) = {
            let mut limiter = self.0.borrow(py);
            limiter.refused += 1;
            (limiter.rate, limiter.per)
        };
        let message = format!(
            "RateLimiter.acquire(n={n}) would wait {wait:.3} s at {rate} per {per} s, and {left:.3} s are left until the \
             deadline: come back after retry_after, or allow more time"
        );
        let made = aio::loopwright_error_type(py, "RateLimitExceeded").and_then(|class| class.call1((message, wait)));
        made.map_or_else(|error| error, PyErr::from_value)
    }
}

impl FastWith for RateLimiter {
    #[inline]
    fn try_enter(&self, py: Python<'_>) -> bool {
        Reading::at_once().is_some_and(|reading| self.0.borrow(py).take(1, reading))
    }

    #[inline]
    fn try_exit(&self, _py: Python<'_>, _failed: bool) -> bool {
        true
    }

    fn slow() -> &'static SlowWith {
        static SLOW: SlowWith = SlowWith::new();
        &SLOW
    }
}

#[pymethods]
impl RateLimiter {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(rate, per=1.0, *, burst=None)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(GilCell::new(State::new(1.0, 1.0, 1)))
    }

    #[pyo3(signature = (rate, per = None, *, burst = None))]
    fn __init__(
        slf: &Bound<'_, Self>,
        rate: &Bound<'_, PyAny>,
        per: Option<&Bound<'_, PyAny>>,
        burst: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (rate, per, burst) = read("RateLimiter", rate, per, burst)?;
        let old = std::mem::replace(&mut *Self::state(slf), State::new(rate, per, burst));
        drop(old);
        Ok(())
    }

    /// How many per :attr:`per` seconds.
    #[getter]
    fn rate(&self, py: Python<'_>) -> f64 {
        self.0.borrow(py).rate
    }

    /// The seconds in which :attr:`rate` pass.
    #[getter]
    fn per(&self, py: Python<'_>) -> f64 {
        self.0.borrow(py).per
    }

    /// The most that pass at once.
    #[getter]
    fn burst(&self, py: Python<'_>) -> u64 {
        self.0.borrow(py).machine.burst()
    }

    /// Waiters: those in line, and those woken that have not run yet.
    #[getter]
    fn waiting(&self, py: Python<'_>) -> usize {
        self.0.borrow(py).machine.waiting()
    }

    /// Waits until ``n`` may pass.
    ///
    /// Args:
    ///     n: how many, 1 to :attr:`burst`; all at once or none.
    ///
    /// Returns:
    ///     An operation to await; it answers True. Nothing happens before it is awaited.
    ///
    /// Raises:
    ///     RateLimitExceeded: the turn would come after the deadline of the :func:`timeout` around this, which only a
    ///         cancel of others could change; at once, with ``retry_after`` in seconds. Also a ``TimeoutError``.
    ///     CancelledError: the wait was cancelled; nothing was used up.
    ///     ValueError: ``n`` is less than 1 or above the burst, also when :meth:`set_rate` makes it so meanwhile.
    #[pyo3(signature = (n = None), text_signature = "($self, n=1)")]
    fn acquire(slf: &Bound<'_, Self>, n: Option<&Bound<'_, PyAny>>) -> PyResult<Py<Op>> {
        AcquireRate::op(slf, args::permits(n, "RateLimiter.acquire(n=...)")?, true)
    }

    /// Lets ``n`` pass if that needs no waiting and overtakes nobody; never blocks.
    ///
    /// Returns:
    ///     Whether they pass.
    #[pyo3(signature = (n = None), text_signature = "($self, n=1)")]
    fn try_acquire(slf: &Bound<'_, Self>, n: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let n = args::permits(n, "RateLimiter.try_acquire(n=...)")?;
        let reading = Reading::take(slf.py());
        let mut limiter = Self::state(slf);
        limiter.check_reachable(n, "try_acquire")?;
        let taken = limiter.take(n, reading);
        limiter.refused += u64::from(!taken);
        Ok(taken)
    }

    /// How long ``acquire(n)`` would wait if it were called now: less if somebody in line gives up.
    ///
    /// Returns:
    ///     Seconds; 0.0 when ``n`` may pass at once.
    #[pyo3(signature = (n = None), text_signature = "($self, n=1)")]
    fn retry_after(slf: &Bound<'_, Self>, n: Option<&Bound<'_, PyAny>>) -> PyResult<f64> {
        let n = args::permits(n, "RateLimiter.retry_after(n=...)")?;
        let reading = Reading::take(slf.py());
        let mut limiter = Self::state(slf);
        limiter.check_reachable(n, "retry_after")?;
        let now = limiter.see(reading);
        Ok(limiter.machine.wait_for(n, now))
    }

    /// Another rate from now on, for those in line too.
    ///
    /// What was used stays used: a change fills no bucket. A waiter that asks for more than the new burst gets a
    /// ``ValueError``, since its turn would never come.
    ///
    /// Args:
    ///     rate, per, burst: as for :class:`RateLimiter`; a burst that is not given comes from the new rate.
    #[pyo3(signature = (rate, per = None, burst = None), text_signature = "($self, rate, per=1.0, burst=None)")]
    fn set_rate(
        slf: &Bound<'_, Self>,
        rate: &Bound<'_, PyAny>,
        per: Option<&Bound<'_, PyAny>>,
        burst: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (rate, per, burst) = read("RateLimiter.set_rate", rate, per, burst)?;
        let reading = Reading::take(slf.py());
        let wakes = {
            let mut limiter = Self::state(slf);
            let now = limiter.see(reading);
            (limiter.rate, limiter.per) = (rate, per);
            limiter.machine.set_rate(rate / per, burst, now)
        };
        Self::carry_out(slf, wakes)
    }

    /// Whether it is as good as new: nothing is used up, nobody waits, and the rate is what it was. :class:`Keyed` gives
    /// up no other.
    fn is_quiescent(slf: &Bound<'_, Self>) -> bool {
        let reading = Reading::take(slf.py());
        let mut limiter = Self::state(slf);
        let now = limiter.see(reading);
        let as_it_was = (limiter.machine.rate(), limiter.machine.burst()) == limiter.initial;
        as_it_was && limiter.machine.is_at_rest(now)
    }

    fn _serve(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::serve(slf)
    }

    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let reading = Reading::take(slf.py());
        if Self::state(slf).take(1, reading) {
            return Ok(Ready::get(slf.py()).into_any());
        }
        Ok(AcquireRate::op(slf, 1, false)?.into_any())
    }

    fn __aexit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        _error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> Py<Ready> {
        Ready::get(slf.py())
    }

    /// Returns:
    ///     A frozen :class:`RateLimiterStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        semaphore::stats(slf.as_any(), "RateLimiterStats")
    }

    #[allow(clippy::type_complexity, reason = "the fields of the dataclass, in order")]
    fn _stats(slf: &Bound<'_, Self>) -> (f64, f64, u64, f64, usize, u64, u64, u64, u64) {
        let reading = Reading::take(slf.py());
        let mut limiter = Self::state(slf);
        let now = limiter.see(reading);
        let available = limiter.machine.available(now).max(0.0);
        let State { machine, rate, per, acquired, admitted, waited, refused, .. } = &*limiter;
        (*rate, *per, machine.burst(), available, machine.waiting(), *acquired, *admitted, *waited, *refused)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (rate, per, burst, available, waiting, ..) = Self::_stats(slf);
        let waiters = if waiting > 0 { format!(", waiters:{waiting}") } else { String::new() };
        let class = slf.get_type().fully_qualified_name()?;
        let at = slf.as_ptr() as usize;
        Ok(format!("<{class} object at {at:#x} [{rate} per {per} s, available:{available:.1} of {burst}{waiters}]>"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |limiter| {
            limiter.machine.wakers().try_for_each(|waker| waker.traverse(&visit))?;
            match &limiter.timer {
                Timer::Off => Ok(()),
                Timer::Set(hub, ..) | Timer::Asked(hub) => visit.call(hub),
            }
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = std::mem::replace(&mut *self.0.borrow(py), State::new(1.0, 1.0, 1));
        drop(cleared);
    }
}

/// `RateLimiter.acquire(n)`.
pub struct AcquireRate {
    limiter: Py<RateLimiter>,
    n: u64,
    /// `acquire` answers True; `async with` binds None.
    answers: bool,
}

impl AcquireRate {
    /// The operation, not started.
    ///
    /// # Errors
    /// `ValueError` when `n` never pass.
    fn op(limiter: &Bound<'_, RateLimiter>, n: u64, answers: bool) -> PyResult<Py<Op>> {
        RateLimiter::state(limiter).check_reachable(n, "acquire")?;
        Op::new(limiter.py(), Kind::AcquireRate(Self { limiter: limiter.clone().unbind(), n, answers }))
    }

    /// Drops its references, see [`awaitable::give_up`].
    pub fn give_up(self, py: Python<'_>) {
        awaitable::give_up(py, self.limiter);
    }

    fn answer(&self, py: Python<'_>) -> Value {
        self.answers.then(|| op::yes(py))
    }
}

impl Operation for AcquireRate {
    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.limiter.as_any())
    }

    fn name(&self) -> &'static str {
        "RateLimiter.acquire"
    }

    fn at_once(&mut self, py: Python<'_>) -> Option<Value> {
        let reading = Reading::at_once()?;
        self.limiter.get().0.borrow(py).take(self.n, reading).then(|| self.answer(py))
    }

    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        let reading = Reading::take(py);
        let taken = self.limiter.get().0.borrow(py).take(self.n, reading);
        Ok(taken.then(|| self.answer(py)))
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        let limiter = self.limiter.bind(py);
        let left = Timeout::left(hub)?;
        let reading = Reading::take(py);
        let (ticket, wakes) = {
            let mut guard = RateLimiter::state(limiter);
            if guard.take(self.n, reading) {
                return Ok(Enlisted::Done(self.answer(py)));
            }
            guard.check_reachable(self.n, "acquire")?;
            let now = guard.see(reading);
            let wait = guard.machine.wait_for(self.n, now);
            if let Some(left) = left.filter(|left| wait >= left - CLOSE_ENOUGH) {
                drop(guard);
                return Err(limiter.get().too_late(py, self.n, wait, left));
            }
            guard.waited += 1;
            guard.machine.wait(self.n, waker, now)
        };
        if let Err(error) = RateLimiter::carry_out(limiter, wakes) {
            drop(self.leave(py, ticket));
            return Err(error);
        }
        Ok(Enlisted::Waits(ticket))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        let limiter = self.limiter.bind(py);
        let reading = Reading::take(py);
        let mut guard = RateLimiter::state(limiter);
        let now = guard.see(reading);
        match guard.machine.resume(ticket, now) {
            Admitted::Yes => {
                guard.count(self.n);
                Ok(Resumed::Done(self.answer(py)))
            }
            Admitted::Never => {
                guard.check_reachable(self.n, "acquire")?;
                Err(PyRuntimeError::new_err("RateLimiter: the event loop was closed while this waiter stood in line"))
            }
            Admitted::No => Err(PyRuntimeError::new_err("RateLimiter.acquire was resumed before its turn")),
        }
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        let limiter = self.limiter.bind(py);
        let reading = Reading::take(py);
        let wakes = {
            let mut guard = RateLimiter::state(limiter);
            let now = guard.see(reading);
            guard.machine.leave(ticket, now)
        };
        RateLimiter::carry_out(limiter, wakes)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.limiter)
    }
}
