//! The books of a `Batcher`: which requests make a batch, and when. The decisions are `loopwright_core::batch`; what
//! waits, and what runs the batches, is `batching.py`.

use loopwright_core::batch::Batch as Machine;
use pyo3::prelude::*;

use crate::gil::GilCell;

/// See the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Batch", frozen)]
pub struct Batch(GilCell<Machine>);

#[pymethods]
impl Batch {
    #[new]
    fn new(max_size: usize, max_delay: f64, max_running: usize) -> Self {
        Self(GilCell::new(Machine::new(max_size.max(1), max_delay, max_running.max(1))))
    }

    fn add(&self, py: Python<'_>, now: f64) -> u64 {
        self.0.borrow(py).add(now)
    }

    fn withdraw(&self, py: Python<'_>, ticket: u64) -> bool {
        self.0.borrow(py).withdraw(ticket)
    }

    fn flush(&self, py: Python<'_>) {
        self.0.borrow(py).flush();
    }

    fn run(&self, py: Python<'_>, now: f64) -> Option<Vec<u64>> {
        self.0.borrow(py).run(now)
    }

    fn run_full(&self, py: Python<'_>) -> Option<Vec<u64>> {
        self.0.borrow(py).run_full()
    }

    fn ended(&self, py: Python<'_>) {
        self.0.borrow(py).ended();
    }

    fn wake_at(&self, py: Python<'_>) -> Option<f64> {
        self.0.borrow(py).wake_at()
    }

    /// (waiting, running)
    fn counts(&self, py: Python<'_>) -> (usize, usize) {
        let batch = self.0.borrow(py);
        (batch.waiting(), batch.running())
    }
}
