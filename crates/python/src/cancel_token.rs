//! CancelToken: a request to stop, made once, heard everywhere. The machine is `loopwright_core::token`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use loopwright_core::deadlines::Key;
use loopwright_core::token::{Family, Token};
use loopwright_core::waiters::Ticket;
use pyo3::PyTraverseError;
use pyo3::PyVisit;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::args;
use crate::fut::Fut;
use crate::hub::{Hub, Origin};
use crate::op::{Enlisted, Kind, Op, Operation, Resumed, Value, Waker};
use crate::timers::Deadline;

/// A request to stop, made once and heard by everybody who waits for it.
///
/// A token is cooperative: cancelling it cancels no task, it ends the waits on it and answers True to who asks. A cancel
/// of the *task* that waits still raises ``CancelledError``, as everywhere, and takes nothing from the token.
///
/// Tokens made with :meth:`child` are cancelled together with their parent, never the other way round. A child that is
/// dropped leaves nothing behind in its parent.
///
/// Thread-safe: :meth:`cancel` (also in a signal handler) and every property may be used from any thread. A token belongs
/// to no event loop: tasks of several loops may wait for one token at the same time, and each is woken in its own.
#[pyclass(module = "loopwright", name = "CancelToken", frozen, weakref)]
pub struct CancelToken {
    /// All tokens made from one another share one machine, so that a cancel is one step. Nothing of Python is called,
    /// nothing dropped, while it is locked.
    family: Arc<Mutex<Family<Waker>>>,
    /// `Some` until it is dropped.
    token: Option<Token>,
}

impl CancelToken {
    fn family(&self) -> MutexGuard<'_, Family<Waker>> {
        self.family.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self) -> &Token {
        self.token.as_ref().expect("a token is released when it is dropped")
    }

    fn is_cancelled(&self) -> bool {
        self.family().is_cancelled(self.token())
    }

    fn operation(slf: &Bound<'_, Self>, seconds: Option<f64>) -> PyResult<Py<Op>> {
        let wait = WaitToken { token: slf.clone().unbind(), seconds, timer: None };
        Op::new(slf.py(), Kind::WaitToken(wait))
    }
}

#[pymethods]
impl CancelToken {
    #[new]
    fn new() -> Self {
        let mut family = Family::default();
        let token = Some(family.root());
        Self { family: Arc::new(Mutex::new(family)), token }
    }

    /// cancel(reason=None)
    /// --
    ///
    /// Cancels this token and every token below it, and wakes all who wait for them.
    ///
    /// May be called from any thread and any number of times; the first call counts.
    ///
    /// Args:
    ///     reason: why, for :attr:`reason`, logs and :class:`TokenCancelled`.
    ///
    /// Returns:
    ///     Whether this call was the one: False when the token was cancelled already.
    ///
    /// Raises:
    ///     TypeError: ``reason`` is not a str.
    #[pyo3(signature = (reason = None))]
    fn cancel(slf: &Bound<'_, Self>, reason: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let py = slf.py();
        let reason: Option<Arc<str>> = match reason.filter(|reason| !reason.is_none()) {
            None => None,
            Some(reason) => match reason.cast::<PyString>() {
                Ok(reason) => Some(Arc::from(reason.to_string_lossy().as_ref())),
                Err(_) => {
                    return Err(PyTypeError::new_err(format!(
                        "CancelToken.cancel(reason=...) must be a str or None, got {}: pass str(...) of it",
                        reason.repr()?
                    )));
                }
            },
        };
        let token = slf.get();
        let Some(wakes) = token.family().cancel(token.token(), reason) else { return Ok(false) };
        let mut outcome = Ok(true);
        for waker in wakes {
            let Waker::Task(fut) = waker else { continue };
            // Always as from a thread: in a signal handler the loop may sleep in `select` in this very thread.
            let Err(error) = Fut::wake(fut.bind(py), Origin::Thread) else { continue };
            let event_loop = fut.bind(py).call_method0(intern!(py, "get_loop"))?;
            if !event_loop.call_method0(intern!(py, "is_closed"))?.is_truthy()? {
                outcome = outcome.and(Err(error));
            } // else nobody is left there to be woken
        }
        outcome
    }

    /// Whether the token is cancelled.
    #[getter]
    fn cancelled(&self) -> bool {
        self.is_cancelled()
    }

    /// What :meth:`cancel` was told, here or at the parent; None while not cancelled, or when nothing was told.
    #[getter]
    fn reason(&self) -> Option<String> {
        self.family().reason(self.token()).map(|reason| reason.to_string())
    }

    /// sleep(seconds)
    /// --
    ///
    /// Sleeps, unless the token is cancelled first: ``while not await token.sleep(60): ...``.
    ///
    /// Args:
    ///     seconds: how long; 0 or less lets the loop run once; ``math.inf`` is :meth:`wait`.
    ///
    /// Returns:
    ///     An operation to await; it answers True when the token was cancelled (at once if it is already), False when
    ///     the seconds have passed. Nothing happens before it is awaited.
    ///
    /// Raises:
    ///     CancelledError: the waiting task itself was cancelled. The sleep has then left the token and the timer.
    ///     TypeError: ``seconds`` is not a number.
    ///     ValueError: ``seconds`` is NaN.
    fn sleep(slf: &Bound<'_, Self>, seconds: &Bound<'_, PyAny>) -> PyResult<Py<Op>> {
        Self::operation(slf, Some(args::seconds(seconds, "CancelToken.sleep(seconds=...)")?))
    }

    /// wait()
    /// --
    ///
    /// Waits until the token is cancelled.
    ///
    /// Returns:
    ///     An operation to await; it answers True. Nothing happens before it is awaited.
    ///
    /// Raises:
    ///     CancelledError: the waiting task itself was cancelled.
    fn wait(slf: &Bound<'_, Self>) -> PyResult<Py<Op>> {
        Self::operation(slf, None)
    }

    /// child()
    /// --
    ///
    /// Makes a token that is cancelled with this one, and can be cancelled alone.
    ///
    /// Returns:
    ///     The child; it is cancelled from the start if this token is.
    fn child(&self) -> Self {
        let token = Some(self.family().child(self.token()));
        Self { family: Arc::clone(&self.family), token }
    }

    /// raise_if_cancelled()
    /// --
    ///
    /// For code that does not await: a loop in a thread, say.
    ///
    /// Raises:
    ///     TokenCancelled: the token is cancelled.
    fn raise_if_cancelled(&self, py: Python<'_>) -> PyResult<()> {
        if !self.is_cancelled() {
            return Ok(());
        }
        let class = py.import(intern!(py, "loopwright.errors"))?.getattr(intern!(py, "TokenCancelled"))?;
        Err(PyErr::from_value(class.call1((self.reason(),))?))
    }

    /// stats()
    /// --
    ///
    /// Returns:
    ///     A frozen :class:`CancelTokenStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("loopwright.cancellation")?.getattr("CancelTokenStats")?.call1(slf.get()._stats())
    }

    fn _stats(&self) -> (bool, Option<String>, usize, usize) {
        let family = self.family();
        let token = self.token();
        (
            family.is_cancelled(token),
            family.reason(token).map(|reason| reason.to_string()),
            family.waiting(token),
            family.children(token),
        )
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (cancelled, reason, waiting, children) = slf.get()._stats();
        let mut state = String::from(if cancelled { "cancelled" } else { "active" });
        if let Some(reason) = reason {
            state += &format!(", reason:{}", PyString::new(slf.py(), &reason).repr()?);
        }
        if waiting > 0 {
            state += &format!(", waiters:{waiting}");
        }
        if children > 0 {
            state += &format!(", children:{children}");
        }
        let class = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{class} object at {:#x} [{state}]>", slf.as_ptr() as usize))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Never locked here: whoever holds the lock calls nothing of Python's.
        if let (Ok(family), Some(token)) = (self.family.try_lock(), &self.token) {
            for waker in family.wakers(token) {
                waker.traverse(&visit)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let line = self.token.as_ref().map(|token| self.family().clear(token));
        drop(line);
    }
}

impl Drop for CancelToken {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            let line = self.family().release(token);
            drop(line);
        }
    }
}

/// `CancelToken.sleep(seconds)` and, without seconds, `CancelToken.wait()`.
pub struct WaitToken {
    token: Py<CancelToken>,
    seconds: Option<f64>,
    timer: Option<(Py<Hub>, Key)>,
}

impl WaitToken {
    fn stop_timer(&mut self, py: Python<'_>) {
        if let Some((hub, key)) = self.timer.take() {
            drop(Hub::remove_deadline(hub.bind(py), key));
        }
    }
}

fn answer(py: Python<'_>, cancelled: bool) -> Value {
    cancelled.into_pyobject(py).map(|answer| answer.to_owned().into_any().unbind()).ok()
}

impl Operation for WaitToken {
    fn name(&self) -> &'static str {
        if self.seconds.is_some() { "CancelToken.sleep" } else { "CancelToken.wait" }
    }

    fn attempt(&mut self, py: Python<'_>) -> PyResult<Option<Value>> {
        Ok(self.token.get().is_cancelled().then(|| answer(py, true)))
    }

    fn enlist(&mut self, hub: &Bound<'_, Hub>, waker: Waker) -> PyResult<Enlisted> {
        let py = hub.py();
        let Waker::Task(fut) = &waker else {
            return Err(PyRuntimeError::new_err("a CancelToken is awaited by tasks"));
        };
        if let Some(seconds) = self.seconds.filter(|&seconds| seconds != f64::INFINITY) {
            let now = Hub::now(hub)?;
            let when = now + seconds.max(0.0);
            let key = Hub::add_deadline(hub, when, now, Deadline::Wake(fut.clone_ref(py)))?;
            self.timer = Some((hub.clone().unbind(), key));
        }
        let token = self.token.get();
        {
            let mut family = token.family();
            // Another thread may have been faster.
            if !family.is_cancelled(token.token()) {
                return Ok(Enlisted::Waits(family.wait(token.token(), waker)));
            }
        }
        self.stop_timer(py);
        Ok(Enlisted::Done(answer(py, true)))
    }

    fn resume(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<Resumed> {
        let token = self.token.get();
        let (cancelled, waker) = {
            let mut family = token.family();
            let cancelled = family.resume(token.token(), ticket);
            (cancelled, if cancelled { None } else { family.leave(token.token(), ticket) })
        };
        drop(waker);
        self.stop_timer(py);
        Ok(Resumed::Done(answer(py, cancelled)))
    }

    fn leave(&mut self, py: Python<'_>, ticket: Ticket) -> PyResult<()> {
        let token = self.token.get();
        let waker = token.family().leave(token.token(), ticket);
        drop(waker);
        self.stop_timer(py);
        Ok(())
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.token)?;
        self.timer.as_ref().map_or(Ok(()), |(hub, _)| visit.call(hub))
    }
}
