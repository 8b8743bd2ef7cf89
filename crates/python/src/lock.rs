//! Lock: a superset of asyncio's.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::op::Op;
use crate::permits::{self, Acquire, Flavour, Permits, State};
use crate::semaphore;

/// Mutual exclusion between tasks. A superset of :class:`asyncio.Lock`.
///
/// Strictly in order of arrival: a released lock with waiters belongs to the first of them at once, so that
/// :meth:`locked` stays True and nobody barges in before it runs. A waiter that is cancelled, at whatever moment, leaves
/// the lock to the next.
///
/// One object serves one event loop at a time: it belongs to a loop while it has waiters. Not thread-safe, not
/// reentrant.
#[pyclass(module = "loopwright", name = "Lock", extends = Permits, frozen, subclass)]
pub struct Lock;

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "()")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Permits::new(Flavour::Lock, 1, Some(1), true)).add_subclass(Self)
    }

    fn __init__(slf: &Bound<'_, Self>) {
        Permits::reset(slf.as_super(), State::new(Flavour::Lock, 1, Some(1), true));
    }

    /// Takes the lock, waiting for it in line.
    ///
    /// Returns:
    ///     An operation to await; it answers True. Nothing is taken before it is awaited.
    ///
    /// Raises:
    ///     CancelledError: the wait was cancelled; the lock was not taken.
    ///     LoopMismatch: waiters of another event loop stand in line.
    fn acquire(slf: &Bound<'_, Self>) -> PyResult<Py<Op>> {
        Acquire::op(slf.as_super(), 1, true)
    }

    /// Takes the lock if it is free; never blocks.
    ///
    /// Returns:
    ///     Whether it was taken.
    fn try_acquire(slf: &Bound<'_, Self>) -> PyResult<bool> {
        permits::try_acquire(slf.as_super(), None)
    }

    /// Frees the lock, or hands it to the first in line.
    ///
    /// Raises:
    ///     RuntimeError: nobody holds it.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        Permits::give_back(slf.as_super(), 1)
    }

    /// Returns:
    ///     A frozen :class:`LockStats` of this moment.
    fn stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        semaphore::stats(slf.as_super().as_any(), "LockStats")
    }
}
