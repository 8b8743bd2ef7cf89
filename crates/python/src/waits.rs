//! Waits, told to whoever traces them: which operation on which object, for how long, and how it ended.
//!
//! Off, it costs an operation that has to wait one look at a flag, and one that need not wait nothing. What is made of a
//! wait (a span) is Python's: `python/loopwright/integrations/otel.py`.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

use crate::gil::GilCell;
use crate::op::keeping_error;
use crate::timers;

static ON: AtomicBool = AtomicBool::new(false);
static HOOK: GilCell<Option<Py<PyAny>>> = GilCell::new(None);

/// `hook(operation, object, seconds, error or None)` is called in the task at the end of each wait; None: nobody is.
#[pyfunction]
#[pyo3(name = "_trace_waits", signature = (hook, /))]
pub fn trace_waits(py: Python<'_>, hook: Option<Py<PyAny>>) {
    ON.store(hook.is_some(), Ordering::Relaxed);
    let before = std::mem::replace(&mut *HOOK.borrow(py), hook);
    drop(before);
}

/// A wait begins: when, if somebody wants to know.
#[inline]
pub fn begun() -> Option<f64> {
    ON.load(Ordering::Relaxed).then(timers::monotonic)
}

/// A wait that began then has ended.
#[cold]
pub fn ended(py: Python<'_>, since: f64, name: &str, object: &Py<PyAny>, error: Option<&PyErr>) {
    let Some(hook) = HOOK.borrow(py).as_ref().map(|hook| hook.clone_ref(py)) else { return };
    let seconds = timers::monotonic() - since;
    let error = error.map(|error| error.value(py).clone());
    keeping_error(py, || hook.call1(py, (name, object, seconds, error)).map(drop));
}
