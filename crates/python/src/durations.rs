//! Durations: how long things took, each within one percent, in a few kilobytes however many there were.
//!
//! The histogram is the `hdrhistogram` crate's (Gil Tene's High Dynamic Range histogram): recording is an index and an
//! increment, two of them can be subtracted, and a quantile is never off by more than its precision.

use hdrhistogram::Histogram;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::gil::GilCell;

/// Values are told apart to two digits, from 100 ns on.
const DIGITS: u8 = 2;
const LOWEST: u64 = 100;
/// The range at first; it grows as needed, up to a day, and longer counts as a day.
const HIGHEST: u64 = 1_000_000_000;
const DAY: u64 = 86_400_000_000_000;

/// How long things took.
#[pyclass(module = "loopwright._loopwright", name = "_Durations", frozen)]
pub struct Durations(GilCell<State>);

#[derive(Clone)]
struct State {
    histogram: Histogram<u64>,
    /// Exactly, in seconds: the histogram would be off by up to a percent.
    total: f64,
}

fn failed(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[allow(clippy::cast_precision_loss, reason = "to the microsecond for a century")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn nanoseconds(seconds: f64) -> u64 {
    ((seconds * 1e9) as u64).min(DAY)
}

impl Durations {
    /// Counts one; a negative one as 0.
    #[inline]
    pub fn add(&self, py: Python<'_>, seconds: f64) {
        let mut state = self.0.borrow(py);
        state.total += seconds.max(0.0);
        let recorded = state.histogram.record(nanoseconds(seconds));
        debug_assert!(recorded.is_ok(), "the histogram grows");
    }
}

#[pymethods]
impl Durations {
    /// Of nothing yet.
    #[new]
    pub fn new() -> PyResult<Self> {
        let mut histogram = Histogram::new_with_bounds(LOWEST, HIGHEST, DIGITS).map_err(failed)?;
        histogram.auto(true);
        Ok(Self(GilCell::new(State { histogram, total: 0.0 })))
    }

    /// Counts one.
    fn record(&self, py: Python<'_>, seconds: f64) {
        self.add(py, seconds);
    }

    /// As it is now, to compare with later.
    fn copy(&self, py: Python<'_>) -> Self {
        Self(GilCell::new(self.0.borrow(py).clone()))
    }

    /// What came since `earlier`, a copy of this one.
    fn since(&self, py: Python<'_>, earlier: &Self) -> PyResult<Self> {
        let mut state = self.0.borrow(py).clone();
        let earlier = earlier.0.borrow(py);
        state.histogram.subtract(&earlier.histogram).map_err(failed)?;
        state.total -= earlier.total;
        Ok(Self(GilCell::new(state)))
    }

    /// How many.
    #[getter]
    fn count(&self, py: Python<'_>) -> u64 {
        self.0.borrow(py).histogram.len()
    }

    /// Seconds, all together.
    #[getter]
    fn total(&self, py: Python<'_>) -> f64 {
        self.0.borrow(py).total
    }

    /// Seconds of the longest; 0 without any.
    #[getter]
    fn max(&self, py: Python<'_>) -> f64 {
        seconds(self.0.borrow(py).histogram.max())
    }

    /// Seconds within which this share of them (0 to 1) was done; 0 without any.
    fn quantile(&self, py: Python<'_>, share: f64) -> f64 {
        let state = self.0.borrow(py);
        seconds(state.histogram.value_at_quantile(share).min(state.histogram.max()))
    }

    /// How many took no longer than each of these bounds, which rise.
    fn within(&self, py: Python<'_>, bounds: Vec<f64>) -> Vec<u64> {
        let state = self.0.borrow(py);
        let mut counts = vec![0; bounds.len()];
        for step in state.histogram.iter_recorded() {
            // Where a value lies in its bucket nobody knows: its middle stands for it.
            let value = seconds(state.histogram.median_equivalent(step.value_iterated_to()));
            let at = bounds.partition_point(|&bound| bound < value);
            if let Some(count) = counts.get_mut(at) {
                *count += step.count_at_value();
            }
        }
        let mut so_far = 0;
        for count in &mut counts {
            so_far += *count;
            *count = so_far;
        }
        counts
    }
}
