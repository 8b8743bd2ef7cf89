//! The parts of a child process that are not Python's: its end (`loopwright_core::process`), what is kept of its output
//! and the lines in it (`loopwright_core::output`).
//!
//! Lives here: text out of bytes. Does not live here: pipes, signals and clocks, which are `processes.py`'s.

use loopwright_core::output::{Lines as LinesMachine, Tail as TailMachine};
use loopwright_core::process::{Life as LifeMachine, Orders, Signal};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::gil::GilCell;

/// `(signal, probe, wake_at, over)`: the signal is "term", "kill" or None.
type Told = (Option<&'static str>, bool, Option<f64>, bool);

fn told(orders: Orders) -> Told {
    let signal = orders.signal.map(|signal| match signal {
        Signal::Term => "term",
        Signal::Kill => "kill",
    });
    (signal, orders.probe, orders.wake_at, orders.over)
}

/// The life of a process and its group. Each event answers what to do.
#[pyclass(module = "loopwright._loopwright", name = "_Life", frozen)]
pub struct Life(GilCell<LifeMachine>);

#[pymethods]
impl Life {
    #[new]
    fn new(kill_after: f64, give_up: f64, linger: f64) -> Self {
        Self(GilCell::new(LifeMachine::new(kill_after, give_up, linger)))
    }

    fn exited(&self, py: Python<'_>, now: f64) -> Told {
        told(self.0.borrow(py).exited(now))
    }

    fn closed(&self, py: Python<'_>) -> Told {
        told(self.0.borrow(py).closed())
    }

    fn end(&self, py: Python<'_>, now: f64) -> Told {
        told(self.0.borrow(py).end(now))
    }

    fn kill(&self, py: Python<'_>, now: f64) -> Told {
        told(self.0.borrow(py).kill(now))
    }

    fn probed(&self, py: Python<'_>, alive: bool, now: f64) -> Told {
        told(self.0.borrow(py).probed(alive, now))
    }

    fn tick(&self, py: Python<'_>, now: f64) -> Told {
        told(self.0.borrow(py).tick(now))
    }

    #[getter]
    fn over(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).is_over()
    }

    #[getter]
    fn running(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).is_running()
    }

    #[getter]
    fn abandoned(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).is_abandoned()
    }
}

/// The last bytes of an output, and how many came before them.
#[pyclass(module = "loopwright._loopwright", name = "_Tail", frozen)]
pub struct Tail(GilCell<TailMachine>);

#[pymethods]
impl Tail {
    #[new]
    fn new(most: usize) -> Self {
        Self(GilCell::new(TailMachine::new(most)))
    }

    fn push(&self, chunk: &Bound<'_, PyBytes>) {
        self.0.borrow(chunk.py()).push(chunk.as_bytes());
    }

    fn kept<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let tail = self.0.borrow(py);
        let (first, second) = tail.kept();
        PyBytes::new_with(py, first.len() + second.len(), |bytes| {
            bytes[..first.len()].copy_from_slice(first);
            bytes[first.len()..].copy_from_slice(second);
            Ok(())
        })
    }

    #[getter]
    fn cut(&self, py: Python<'_>) -> u64 {
        self.0.borrow(py).cut()
    }
}

/// What was written and not taken yet, as lines or as it came.
#[pyclass(module = "loopwright._loopwright", name = "_Lines", frozen)]
pub struct Lines(GilCell<LinesMachine>);

#[pymethods]
impl Lines {
    #[new]
    fn new(most: usize) -> Self {
        Self(GilCell::new(LinesMachine::new(most)))
    }

    fn push(&self, chunk: &Bound<'_, PyBytes>) {
        self.0.borrow(chunk.py()).push(chunk.as_bytes());
    }

    fn end(&self, py: Python<'_>) {
        self.0.borrow(py).end();
    }

    /// Up to `n` lines: text (what is not UTF-8 is replaced), or bytes.
    fn take<'py>(&self, py: Python<'py>, n: usize, text: bool, with_ends: bool) -> PyResult<Bound<'py, PyList>> {
        let taken = PyList::empty(py);
        let mut lines = self.0.borrow(py);
        while taken.len() < n
            && let Some(line) = lines.take(with_ends)
        {
            if text {
                taken.append(PyString::new(py, &String::from_utf8_lossy(line)))?;
            } else {
                taken.append(PyBytes::new(py, line))?;
            }
        }
        Ok(taken)
    }

    fn take_bytes<'py>(&self, py: Python<'py>, n: usize) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.borrow(py).take_bytes(n))
    }

    fn has_room(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).has_room()
    }

    #[getter]
    fn waiting(&self, py: Python<'_>) -> usize {
        self.0.borrow(py).waiting()
    }

    #[getter]
    fn over(&self, py: Python<'_>) -> bool {
        self.0.borrow(py).is_over()
    }
}
