//! Arguments that are checked at the door: numbers that are numbers, and sane.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt};

/// Reads an `int` of at least `least`. `what` names it: `Semaphore(value=...)`.
///
/// # Errors
/// `TypeError` for anything but an int (a bool is not meant as one), `ValueError` out of range.
pub fn count(given: &Bound<'_, PyAny>, what: &str, least: i64) -> PyResult<i64> {
    if given.is_instance_of::<PyBool>() || !given.is_instance_of::<PyInt>() {
        // Anything with __index__ (numpy's integers) is a number; a bool or a float here is a slip.
        let is_index = !given.is_instance_of::<PyBool>() && given.hasattr("__index__")?;
        if !is_index {
            return Err(PyTypeError::new_err(format!(
                "{what} must be an int, got {}: pass a whole number",
                given.repr()?
            )));
        }
    }
    match given.extract::<i64>() {
        Ok(number) if number >= least => Ok(number),
        Ok(number) => Err(PyValueError::new_err(format!("{what} must be {least} or more, got {number}"))),
        Err(_) => Err(PyValueError::new_err(format!("{what} is out of range: {}", given.repr()?))),
    }
}

/// Reads the `n` of `acquire(n)`: an int of at least 1; not given means 1.
///
/// # Errors
/// As [`count`].
#[inline]
pub fn permits(given: Option<&Bound<'_, PyAny>>, what: &str) -> PyResult<u64> {
    match given {
        None => Ok(1),
        Some(given) => Ok(count(given, what, 1)?.unsigned_abs()),
    }
}
