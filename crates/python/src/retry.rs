//! What `loopwright.retries` asks the core: the verdict on a failed attempt, and the budget. The machines are
//! `loopwright_core::retry`.
//!
//! Lives here: nothing but their state. The attempts themselves are driven by Python's frames, see `retries.py`.

use loopwright_core::retry::{Budget, Failures, Jitter, Policy, Verdict};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::gil::GilCell;

/// How many retries there may be: a share of the calls of the last ``window`` seconds, and a floor.
#[pyclass(module = "loopwright", name = "_RetryBudget", frozen)]
pub struct RetryBudget(GilCell<Budget>);

#[pymethods]
impl RetryBudget {
    #[new]
    fn new(share: f64, floor: f64, window: f64, now: f64) -> Self {
        Self(GilCell::new(Budget::new(share, floor, window, now)))
    }

    /// So many calls were made since this was said last.
    fn tell(&self, py: Python<'_>, calls: u64, now: f64) {
        self.0.borrow(py).tell(calls, now);
    }

    /// Returns:
    ///     Retries that there could be now, that were allowed, and that were refused.
    fn counts(&self, py: Python<'_>, now: f64) -> (f64, u64, u64) {
        let mut budget = self.0.borrow(py);
        (budget.left(now), budget.retries(), budget.denied())
    }
}

/// The numbers of one ``Retry``.
#[pyclass(module = "loopwright", name = "_RetryPolicy", frozen)]
pub struct RetryPolicy(Policy);

#[pymethods]
impl RetryPolicy {
    #[new]
    fn new(attempts: Option<u64>, base: f64, max_delay: f64, jitter: &str) -> PyResult<Self> {
        let jitter = match jitter {
            "full" => Jitter::Full,
            "equal" => Jitter::Equal,
            "decorrelated" => Jitter::Decorrelated,
            "none" => Jitter::None,
            other => return Err(PyValueError::new_err(format!("no such jitter: {other:?}"))),
        };
        Ok(Self(Policy { attempts, base, max_delay, jitter }))
    }

    /// The failures of a new call. Its delays are those of the seed.
    fn begin(slf: &Bound<'_, Self>, seed: u64) -> RetryFailures {
        RetryFailures { policy: slf.clone().unbind(), failures: GilCell::new(Failures::new(seed)) }
    }
}

/// The failures of one call.
#[pyclass(module = "loopwright", name = "_RetryFailures", frozen)]
pub struct RetryFailures {
    policy: Py<RetryPolicy>,
    failures: GilCell<Failures>,
}

#[pymethods]
impl RetryFailures {
    /// Attempts that have failed.
    #[getter]
    fn count(&self, py: Python<'_>) -> u64 {
        self.failures.borrow(py).count()
    }

    /// An attempt has failed.
    ///
    /// Returns:
    ///     ``("again", seconds to wait)``, or why it is given up: ``("attempts", 0)``, ``("time", the seconds that would
    ///     have to be waited)``, ``("budget", 0)``.
    fn failed(
        &self,
        py: Python<'_>,
        budget: Option<&Bound<'_, RetryBudget>>,
        now: f64,
        left: Option<f64>,
        wish: Option<f64>,
    ) -> (&'static str, f64) {
        let mut budget = budget.map(|budget| budget.get().0.borrow(py));
        match self.failures.borrow(py).failed(&self.policy.get().0, budget.as_deref_mut(), now, left, wish) {
            Verdict::Again(delay) => ("again", delay),
            Verdict::OutOfAttempts => ("attempts", 0.0),
            Verdict::OutOfTime(delay) => ("time", delay),
            Verdict::OutOfBudget => ("budget", 0.0),
        }
    }
}
