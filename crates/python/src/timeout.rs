//! timeout, timeout_at, time_left: a deadline for the length of an `async with`. The deadlines of a loop live in its
//! [`crate::timers`]; here is what one of them means to its task.

use loopwright_core::deadlines::Key;
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::aio;
use crate::args;
use crate::awaitable::{self, FreeList, Ready, Recycled, Step};
use crate::gil::GilCell;
use crate::hub::Hub;
use crate::timers::Deadline;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Created,
    Entered,
    /// The deadline has passed and the task was cancelled; the block has not ended yet.
    Expiring,
    Expired,
    Exited,
}

impl Phase {
    /// asyncio's words.
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Entered => "active",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Exited => "finished",
        }
    }
}

/// A deadline for the body of an ``async with``. Made by :func:`timeout` and :func:`timeout_at`; a superset of
/// :class:`asyncio.Timeout`.
#[pyclass(module = "loopwright", name = "Timeout", frozen, weakref)]
pub struct Timeout(GilCell<State>);

struct State {
    phase: Phase,
    entering: Entering,
    when: Option<f64>,
    /// What `timeout` was given, for the message; None: an absolute time.
    delay: Option<f64>,
    /// Where and when it was made: saves a look around when it is entered. None: not known any more.
    made: Option<Made>,
    /// `task.cancelling()` when it was entered: more at the end means that somebody else wants the task to end.
    cancelling: isize,
    key: Option<Key>,
    entered: Option<Entered>,
}

/// How far the await of `__aenter__()` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entering {
    No,
    Called,
    /// It gave the loop a turn.
    Yielded,
}

/// The hub of the loop that ran when a timeout was made, and the time.
struct Made {
    hub: Py<Hub>,
    at: f64,
}

/// What it refers to while it is entered.
struct Entered {
    hub: Py<Hub>,
    task: Py<PyAny>,
    /// The timeout around this one, in the same task.
    outer: Option<Py<Timeout>>,
}

/// timeout(delay)
/// --
///
/// Ends the body of an ``async with`` that takes longer than ``delay`` seconds: cancels it and raises ``TimeoutError``.
///
/// A superset of :func:`asyncio.timeout`, 5 to 12 times as fast: all deadlines of a loop share one timer, and a timeout that
/// comes and goes behind an earlier one makes no call into the loop. Timeouts nest: an inner one never outlives an
/// outer one, and :attr:`Timeout.remaining` is the least of them all.
///
/// A cancel that is not the timeout's own is never turned into a ``TimeoutError``, ``timeout(0)`` included: one that is
/// under way when the block is entered is delivered at the ``async with`` line, before the clock starts.
///
/// Args:
///     delay: seconds from now; 0 or less has expired already, and the first await of the body that waits raises.
///         None: no deadline, until :meth:`Timeout.reschedule` sets one.
///
/// Returns:
///     An async context manager, to be entered once; ``as`` binds it.
///
/// Raises:
///     TimeoutError: at the end of the body, when the deadline passed and the body ended with the ``CancelledError``.
///     CancelledError: the task was cancelled by somebody else.
///     RuntimeError: outside of a task, or of a running event loop.
///     TypeError: ``delay`` is not a number.
///     ValueError: ``delay`` is NaN.
#[pyfunction]
pub fn timeout<'py>(delay: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Timeout>> {
    let py = delay.py();
    let hub = aio::hub(py)?;
    if delay.is_none() {
        return Timeout::make(py, None, None, None);
    }
    let delay = args::seconds(delay, "timeout(delay=...)")?;
    let now = Hub::now(hub.bind(py))?;
    Timeout::make(py, Some(now + delay), Some(delay), Some(Made { hub, at: now }))
}

/// timeout_at(when)
/// --
///
/// Like :func:`timeout`, with an absolute time on the event loop's clock.
///
/// Args:
///     when: a time as ``loop.time()`` tells it (not a date); one that has passed has expired already. None: no deadline.
///
/// Returns:
///     An async context manager, to be entered once; ``as`` binds it.
///
/// Raises:
///     TimeoutError, CancelledError, RuntimeError, TypeError, ValueError: as :func:`timeout`.
#[pyfunction]
pub fn timeout_at<'py>(when: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Timeout>> {
    let at = if when.is_none() { None } else { Some(args::seconds(when, "timeout_at(when=...)")?) };
    Timeout::make(when.py(), at, None, None)
}

/// time_left()
/// --
///
/// Seconds until the current deadline: the earliest among those of the :func:`timeout` blocks around this line in this
/// task. What is about to wait can ask whether that makes sense at all.
///
/// Only Loopwright's own deadlines count: asyncio and anyio give no way to ask for theirs (``asyncio.timeout``,
/// ``anyio.fail_after``). A task that is started inside a block does not inherit its deadline.
///
/// Returns:
///     Seconds, 0.0 at the least; None without a deadline, outside of a task and where no event loop runs.
#[pyfunction]
pub fn time_left(py: Python<'_>) -> PyResult<Option<f64>> {
    match aio::hub(py) {
        Ok(hub) => Timeout::left(hub.bind(py)),
        Err(error) if error.is_instance_of::<PyRuntimeError>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Recycled for Timeout {
    fn free_list() -> &'static FreeList {
        static LIST: FreeList = FreeList::new();
        &LIST
    }
}

impl Timeout {
    #[inline]
    fn make(py: Python<'_>, when: Option<f64>, delay: Option<f64>, made: Option<Made>) -> PyResult<Bound<'_, Self>> {
        let entering = Entering::No;
        let state =
            State { phase: Phase::Created, entering, when, delay, made, cancelling: 0, key: None, entered: None };
        awaitable::new_recycled(py, Self(GilCell::new(state)))
    }

    /// A step of the await of `__aenter__()`.
    #[inline]
    fn step(slf: &Bound<'_, Self>) -> PyResult<Step> {
        let py = slf.py();
        let entering = std::mem::replace(&mut slf.get().0.borrow(py).entering, Entering::No);
        if entering == Entering::No {
            return Err(PyRuntimeError::new_err("a Timeout is entered, not awaited: use `async with timeout(...)`"));
        }
        if Self::enter(slf, entering == Entering::Called)? {
            return Ok(Step::Return(Some(slf.clone().into_any().unbind())));
        }
        // A bare yield: the task comes back in the next turn, or its cancel does.
        slf.get().0.borrow(py).entering = Entering::Yielded;
        Ok(Step::Yield(py.None()))
    }

    /// Starts the clock. `Ok(false)`: a cancel of the task is under way; let the loop deliver it first.
    fn enter(slf: &Bound<'_, Self>, may_yield: bool) -> PyResult<bool> {
        let py = slf.py();
        let (phase, when, made) = {
            let mut timeout = slf.get().0.borrow(py);
            (timeout.phase, timeout.when, timeout.made.take())
        };
        if phase != Phase::Created {
            return Err(PyRuntimeError::new_err(
                "Timeout has already been entered: make a new one for each `async with`",
            ));
        }
        let (hub, made) = match made {
            Some(Made { hub, at }) if aio::met_last(&hub) => (hub.into_bound(py), Some(at)),
            _ => (aio::hub(py)?.into_bound(py), None),
        };
        let task = Hub::current_task(&hub, "Timeout")?;
        let cancelling = aio::cancelling(&task)?;
        if cancelling > 0 && may_yield {
            return Ok(false);
        }
        let key = match when {
            Some(when) => {
                let now = made.map_or_else(|| Hub::now(&hub), Ok)?;
                Some(Hub::add_deadline(&hub, when, now, Deadline::Timeout(slf.clone().unbind()))?)
            }
            None => None,
        };
        let outer = hub.get().timers(py).nest(&task, slf.clone().unbind());
        let mut timeout = slf.get().0.borrow(py);
        timeout.phase = Phase::Entered;
        timeout.cancelling = cancelling;
        timeout.key = key;
        timeout.entered = Some(Entered { hub: hub.unbind(), task: task.unbind(), outer });
        Ok(true)
    }

    /// The deadline has passed: cancels the task.
    ///
    /// # Errors
    /// What a task's `cancel` raises.
    pub fn expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let task = {
            let mut timeout = slf.get().0.borrow(py);
            timeout.key = None;
            match &timeout.entered {
                Some(entered) if timeout.phase == Phase::Entered => entered.task.clone_ref(py),
                _ => return Ok(()),
            }
        };
        task.bind(py).call_method0(intern!(py, "cancel"))?;
        slf.get().0.borrow(py).phase = Phase::Expiring;
        Ok(())
    }

    /// The block has ended, with an error or not.
    #[inline]
    fn exit(slf: &Bound<'_, Self>, kind: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let (entered, key, expired) = {
            let mut timeout = slf.get().0.borrow(py);
            let expired = match timeout.phase {
                Phase::Entered => {
                    timeout.phase = Phase::Exited;
                    None
                }
                Phase::Expiring => {
                    timeout.phase = Phase::Expired;
                    let State { when, delay, cancelling, .. } = *timeout;
                    Some(Expired { when, delay, cancelling })
                }
                phase => {
                    let message = format!("Cannot leave a Timeout that is {}", phase.word());
                    drop(timeout);
                    return Err(PyRuntimeError::new_err(message));
                }
            };
            (timeout.entered.take(), timeout.key.take(), expired)
        };
        let Some(entered) = entered else { return Ok(()) };
        let task = Self::leave(slf, entered, key);
        expired.map_or(Ok(()), |expired| expired.end(&task, kind, error))
    }

    /// Takes this timeout out of the heap, and out of its task's chain of nested ones.
    #[inline]
    fn leave<'py>(slf: &Bound<'py, Self>, entered: Entered, key: Option<Key>) -> Bound<'py, PyAny> {
        // References are given up as `Bound` here: `Py` asks each time whether the thread is attached.
        let py = slf.py();
        let Entered { hub, task, outer } = entered;
        let (hub, task) = (hub.into_bound(py), task.into_bound(py));
        if let Some(key) = key {
            match Hub::remove_deadline(&hub, key) {
                Some(Deadline::Timeout(own)) => own.drop_ref(py),
                other => drop(other),
            }
        }
        let unnested = hub.get().timers(py).unnest(&task, slf, outer);
        match unnested {
            Ok(own) => own.drop_ref(py),
            Err(outer) => {
                let innermost = hub.get().timers(py).innermost(&task);
                Self::unlink_from_the_middle(slf, innermost, outer);
            }
        }
        task
    }

    /// Blocks that end out of order: a generator that is closed late, say.
    #[cold]
    fn unlink_from_the_middle(slf: &Bound<'_, Self>, innermost: Option<Py<Self>>, outer: Option<Py<Self>>) {
        let py = slf.py();
        let mut next = innermost;
        while let Some(inner) = next {
            let mut timeout = inner.get().0.borrow(py);
            let Some(entered) = &mut timeout.entered else { return };
            if entered.outer.as_ref().is_some_and(|around| around.is(slf)) {
                let own = std::mem::replace(&mut entered.outer, outer);
                drop(timeout);
                drop(own);
                return;
            }
            next = entered.outer.as_ref().map(|outer| outer.clone_ref(py));
        }
    }

    /// Seconds until the running task's deadline, 0.0 at the least; None without one.
    ///
    /// # Errors
    /// What the loop's clock raises.
    pub fn left(hub: &Bound<'_, Hub>) -> PyResult<Option<f64>> {
        let py = hub.py();
        let Some(task) = aio::current_task(&hub.get().event_loop(py)?)? else { return Ok(None) };
        let innermost = hub.get().timers(py).innermost(&task);
        let Some(earliest) = innermost.and_then(|timeout| Self::earliest(timeout.bind(py))) else { return Ok(None) };
        Ok(Some((earliest - Hub::now(hub)?).max(0.0)))
    }

    /// The earliest deadline of this timeout and those around it.
    fn earliest(slf: &Bound<'_, Self>) -> Option<f64> {
        let py = slf.py();
        let mut earliest: Option<f64> = None;
        let mut next = Some(slf.clone().unbind());
        while let Some(timeout) = next {
            let timeout = timeout.get().0.borrow(py);
            earliest = match (earliest, timeout.when) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            next = timeout.entered.as_ref().and_then(|entered| entered.outer.as_ref()).map(|outer| outer.clone_ref(py));
        }
        earliest
    }
}

/// A timeout whose deadline passed and whose body has ended.
struct Expired {
    when: Option<f64>,
    delay: Option<f64>,
    cancelling: isize,
}

impl Expired {
    /// Decides what becomes of the error with which the body ended.
    #[cold]
    fn end(&self, task: &Bound<'_, PyAny>, kind: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = task.py();
        let left: isize = task.call_method0(intern!(py, "uncancel"))?.extract()?;
        if left > self.cancelling || kind.is_none() {
            return Ok(()); // somebody else cancelled the task too, or the body swallowed the cancel
        }
        let cancelled = aio::cancelled_error(py)?;
        if kind.cast::<PyType>()?.is_subclass(cancelled)? {
            return Err(PyErr::from_value(self.error(error)?));
        }
        if cfg!(Py_3_13) && !error.is_none() {
            // As asyncio does since 3.13: the body failed while it was being cancelled, and its error tells by what.
            self.tell(error)?;
            if error.is_instance(py.import("builtins")?.getattr("ExceptionGroup")?.as_any())? {
                for error in error.getattr(intern!(py, "exceptions"))?.try_iter()? {
                    self.tell(&error?)?;
                }
            }
        }
        Ok(())
    }

    /// Puts a `TimeoutError` into the chain of contexts, where the `CancelledError` is.
    fn tell(&self, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = error.py();
        let cancelled = aio::cancelled_error(py)?;
        let mut error = error.clone();
        loop {
            let context = error.getattr(intern!(py, "__context__"))?;
            if context.is_none() {
                return Ok(());
            }
            if context.is_instance(cancelled)? {
                return error.setattr(intern!(py, "__context__"), self.error(&context)?);
            }
            error = context;
        }
    }

    fn error<'py>(&self, cause: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = cause.py();
        let message = match (self.delay, self.when) {
            (Some(delay), _) => format!("timeout({delay}) expired"),
            (None, Some(when)) => format!("the deadline at {when:.3} on the event loop's clock passed"),
            (None, None) => String::from("the timeout expired"),
        };
        let error = py.get_type::<PyTimeoutError>().call1((message,))?;
        error.setattr(intern!(py, "__cause__"), cause)?;
        error.setattr(intern!(py, "__context__"), cause)?;
        Ok(error)
    }
}

#[pymethods]
impl Timeout {
    /// Nothing happens before it is awaited. What is to be awaited is the timeout itself: one object less.
    fn __aenter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf.0.borrow(slf.py()).entering = Entering::Called;
        slf
    }

    fn __await__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let value_wanted = awaitable::value_wanted();
        awaitable::answer(slf.py(), Self::step(slf)?, value_wanted)
    }

    fn __aexit__(
        slf: &Bound<'_, Self>,
        kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<Ready>> {
        Self::exit(slf, kind, error)?;
        Ok(Ready::get(slf.py()))
    }

    /// For `Retry`, which pays for no await: enters it. False: a cancel of the task is under way; give the loop a turn
    /// to deliver it, then enter it by `_start_late`.
    fn _start(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::enter(slf, true)
    }

    /// For `Retry`: the cancel, if there was one, is over.
    fn _start_late(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::enter(slf, false).map(drop)
    }

    /// For `Retry`: leaves it after a block that ended well.
    fn _end(slf: &Bound<'_, Self>) -> PyResult<()> {
        let none = slf.py().None().into_bound(slf.py());
        Self::exit(slf, &none, &none)
    }

    /// For `Retry`: leaves it, if it is entered, after a block that failed; raises as `__aexit__` does.
    fn _fail(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let phase = slf.get().0.borrow(slf.py()).phase;
        if matches!(phase, Phase::Entered | Phase::Expiring) {
            Self::exit(slf, error.get_type().as_any(), error)
        } else {
            Ok(())
        }
    }

    /// when()
    /// --
    ///
    /// Returns:
    ///     The deadline on the event loop's clock; None without one.
    fn when(&self, py: Python<'_>) -> Option<f64> {
        self.0.borrow(py).when
    }

    /// reschedule(when)
    /// --
    ///
    /// Moves the deadline.
    ///
    /// Args:
    ///     when: a time as ``loop.time()`` tells it; one that has passed expires in the next turn of the loop. None takes
    ///         the deadline away.
    ///
    /// Raises:
    ///     RuntimeError: the timeout has not been entered, has expired, or is over.
    ///     TypeError, ValueError: as :func:`timeout_at`.
    fn reschedule(slf: &Bound<'_, Self>, when: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let when = if when.is_none() { None } else { Some(args::seconds(when, "Timeout.reschedule(when=...)")?) };
        let (phase, hub, key) = {
            let mut timeout = slf.get().0.borrow(py);
            if timeout.phase == Phase::Entered {
                timeout.when = when;
                timeout.delay = None;
            }
            (timeout.phase, timeout.entered.as_ref().map(|entered| entered.hub.clone_ref(py)), timeout.key)
        };
        let hub = match (phase, hub) {
            (Phase::Entered, Some(hub)) => hub,
            (Phase::Created, _) => return Err(PyRuntimeError::new_err("Timeout has not been entered")),
            _ => return Err(PyRuntimeError::new_err(format!("Cannot change state of {} Timeout", phase.word()))),
        };
        let hub = hub.bind(py);
        match (key, when) {
            (Some(key), Some(when)) => Hub::move_deadline(hub, key, when, Hub::now(hub)?),
            (Some(key), None) => {
                slf.get().0.borrow(py).key = None;
                drop(Hub::remove_deadline(hub, key));
                Ok(())
            }
            (None, Some(when)) => {
                let deadline = Deadline::Timeout(slf.clone().unbind());
                let key = Hub::add_deadline(hub, when, Hub::now(hub)?, deadline)?;
                slf.get().0.borrow(py).key = Some(key);
                Ok(())
            }
            (None, None) => Ok(()),
        }
    }

    /// expired()
    /// --
    ///
    /// Returns:
    ///     Whether the deadline passed while the body ran.
    fn expired(&self, py: Python<'_>) -> bool {
        matches!(self.0.borrow(py).phase, Phase::Expiring | Phase::Expired)
    }

    /// Seconds left, 0.0 at the least: until the earliest deadline among this timeout's own and, while it is entered,
    /// those of the timeouts around it in the same task. None when none of them has a deadline.
    #[getter]
    fn remaining(slf: &Bound<'_, Self>) -> PyResult<Option<f64>> {
        let py = slf.py();
        let Some(earliest) = Self::earliest(slf) else { return Ok(None) };
        let hub = slf.get().0.borrow(py).entered.as_ref().map(|entered| entered.hub.clone_ref(py));
        let hub = hub.map_or_else(|| aio::hub(py), Ok)?;
        Ok(Some((earliest - Hub::now(hub.bind(py))?).max(0.0)))
    }

    /// stats()
    /// --
    ///
    /// Returns:
    ///     A frozen :class:`TimeoutStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (state, when) = {
            let timeout = slf.get().0.borrow(slf.py());
            (timeout.phase.word(), timeout.when)
        };
        let class = slf.py().import("loopwright.timeouts")?.getattr("TimeoutStats")?;
        class.call1((state, when, Self::remaining(slf)?))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (phase, when) = {
            let timeout = self.0.borrow(py);
            (timeout.phase, timeout.when)
        };
        let mut repr = format!("<Timeout [{}]", phase.word());
        if phase == Phase::Entered {
            match when {
                Some(when) => {
                    let rounded = py.import("builtins")?.getattr("round")?.call1((when, 3))?;
                    repr += &format!(" when={}", rounded.repr()?);
                }
                None => repr += " when=None",
            }
        }
        Ok(repr + ">")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |timeout| {
            if let Some(made) = &timeout.made {
                visit.call(&made.hub)?;
            }
            let Some(entered) = &timeout.entered else { return Ok(()) };
            visit.call(&entered.hub)?;
            visit.call(&entered.task)?;
            entered.outer.as_ref().map_or(Ok(()), |outer| visit.call(outer))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = {
            let mut timeout = self.0.borrow(py);
            (timeout.made.take(), timeout.entered.take())
        };
        drop(cleared);
    }
}
