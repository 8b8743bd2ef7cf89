//! Semaphore and BoundedSemaphore: supersets of asyncio's, weighted.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::args;
use crate::hub::Origin;
use crate::op::{self, Op};
use crate::permits::{self, Acquire, Flavour, Permit, Permits, State};

/// At most `value` permits out at a time. A superset of :class:`asyncio.Semaphore`, weighted, 4 to 8 times as fast.
///
/// A waiter that is cancelled, at whatever moment, never takes a permit with it: what was reserved for it goes to the
/// next in line in the same turn of the loop, and it still gets its ``CancelledError``. Waiters are served in the order
/// in which they came, weighted ones included: a big request is not starved by small ones, and nobody who comes later
/// overtakes (unless ``fair=False``).
///
/// Releasing more than was acquired is legal and adds permits, as in asyncio; :class:`BoundedSemaphore` minds.
///
/// Args:
///     value: permits at the start, 0 or more.
///     fair: False lets whoever comes first take a freed permit, waiters or not: fewer turns of the loop when one task
///         releases and acquires in a row, no order among waiters.
///
/// Raises:
///     ValueError: ``value`` is negative.
///     TypeError: ``value`` is not an int.
///
/// One object serves one event loop at a time: it belongs to a loop while it has waiters. Not thread-safe.
#[pyclass(module = "loopwright", name = "Semaphore", extends = Permits, frozen, subclass)]
pub struct Semaphore;

#[pymethods]
impl Semaphore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(value=1, *, fair=True)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Permits::new(Flavour::Semaphore, 1, None, true)).add_subclass(Self)
    }

    #[pyo3(signature = (value = None, *, fair = true))]
    fn __init__(slf: &Bound<'_, Self>, value: Option<&Bound<'_, PyAny>>, fair: bool) -> PyResult<()> {
        let value = value.map_or(Ok(1), |value| args::count(value, "Semaphore(value=...)", 0))?;
        Permits::reset(slf.as_super(), State::new(Flavour::Semaphore, value, None, fair));
        Ok(())
    }

    /// Takes ``n`` permits, waiting for them in line.
    ///
    /// Args:
    ///     n: how many, 1 or more; all at once or none.
    ///
    /// Returns:
    ///     An operation to await; it answers True. Nothing is taken before it is awaited.
    ///
    /// Raises:
    ///     CancelledError: the wait was cancelled; no permit was taken.
    ///     ValueError: ``n`` is less than 1.
    ///     LoopMismatch: waiters of another event loop stand in line.
    #[pyo3(signature = (n = None), text_signature = "($self, n=1)")]
    fn acquire(slf: &Bound<'_, Self>, n: Option<&Bound<'_, PyAny>>) -> PyResult<Py<Op>> {
        Acquire::op(slf.as_super(), args::permits(n, "Semaphore.acquire(n=...)")?, true)
    }

    /// Takes ``n`` permits if they are free and nobody waits for them; never blocks.
    ///
    /// Returns:
    ///     Whether they were taken.
    #[pyo3(signature = (n = None), text_signature = "($self, n=1)")]
    fn try_acquire(slf: &Bound<'_, Self>, n: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        permits::try_acquire(slf.as_super(), n)
    }

    /// Gives ``n`` permits back. Waiters they serve have them reserved at once, and run soon, not inside this call.
    #[pyo3(signature = (n = None), text_signature = "($self, n=1)")]
    fn release(slf: &Bound<'_, Self>, n: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        Permits::give_back(slf.as_super(), args::permits(n, "Semaphore.release(n=...)")?)
    }

    /// ``async with semaphore.permit(3):`` holds three permits for the length of the block.
    ///
    /// Returns:
    ///     An async context manager that can be entered any number of times.
    #[pyo3(signature = (n = None), text_signature = "($self, n=1)")]
    fn permit(slf: &Bound<'_, Self>, n: Option<&Bound<'_, PyAny>>) -> PyResult<Permit> {
        Permit::new(slf.as_super(), args::permits(n, "Semaphore.permit(n=...)")?)
    }

    /// Returns:
    ///     A frozen :class:`SemaphoreStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        stats(slf.as_super().as_any(), "SemaphoreStats")
    }
}

/// A frozen dataclass of `loopwright.limits`, filled from `_stats()`.
pub fn stats<'py>(object: &Bound<'py, PyAny>, class: &str) -> PyResult<Bound<'py, PyAny>> {
    let fields = object.call_method0("_stats")?.cast_into::<PyTuple>()?;
    object.py().import("loopwright.limits")?.getattr(class)?.call1(fields)
}

/// A :class:`Semaphore` with a limit: releasing more than was acquired raises, and the limit can be changed.
///
/// Args:
///     value: permits, 0 or more. Becomes :attr:`limit`.
///     fair: as for :class:`Semaphore`.
///
/// Raises:
///     ValueError: from ``release`` when more comes back than went out; from ``acquire(n)`` at once when ``n`` is above
///         the limit, since it could never be served.
///
/// Everything else is as in :class:`Semaphore`.
#[pyclass(module = "loopwright", name = "BoundedSemaphore", extends = Semaphore, frozen, subclass)]
pub struct BoundedSemaphore;

#[pymethods]
impl BoundedSemaphore {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(value=1, *, fair=True)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Permits::new(Flavour::Bounded, 1, Some(1), true))
            .add_subclass(Semaphore)
            .add_subclass(Self)
    }

    #[pyo3(signature = (value = None, *, fair = true))]
    fn __init__(slf: &Bound<'_, Self>, value: Option<&Bound<'_, PyAny>>, fair: bool) -> PyResult<()> {
        let value = value.map_or(Ok(1), |value| args::count(value, "BoundedSemaphore(value=...)", 0))?;
        Permits::reset(slf.as_super().as_super(), State::new(Flavour::Bounded, value, Some(value), fair));
        Ok(())
    }

    /// The most permits out at a time. Can be set: raising it serves waiters at once, lowering it takes effect as
    /// permits come back (none is taken away from its holder).
    #[getter]
    fn limit(slf: &Bound<'_, Self>) -> i64 {
        Permits::state(slf.as_super().as_super()).limit.unwrap_or_default()
    }

    #[setter]
    fn set_limit(slf: &Bound<'_, Self>, limit: &Bound<'_, PyAny>) -> PyResult<()> {
        let limit = args::count(limit, "BoundedSemaphore.limit", 0)?;
        let permits = slf.as_super().as_super();
        let wakes = {
            let mut permits = Permits::state(permits);
            let Some(old) = permits.limit.replace(limit) else {
                return Err(PyValueError::new_err("BoundedSemaphore has no limit"));
            };
            permits.machine.resize(limit - old)
        };
        op::wake(slf.py(), wakes, Origin::Loop)
    }
}
