//! Arguments that are checked at the door: numbers that are numbers, and sane.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt};

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

/// Reads a time in seconds, or a time on the loop's clock. `what` names it: `timeout(delay=...)`. Infinity is a time.
///
/// # Errors
/// `TypeError` for anything but a number (a bool is not meant as one), `ValueError` for NaN.
#[inline]
pub fn seconds(given: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    if given.is_exact_instance_of::<PyInt>()
        && let Ok(seconds) = given.extract::<i32>()
    {
        return Ok(f64::from(seconds)); // PyFloat_AsDouble would make a float object
    }
    let seconds = match given.cast_exact::<PyFloat>() {
        Ok(float) => float.value(),
        Err(_) => number(given, what)?,
    };
    if seconds.is_nan() {
        return Err(PyValueError::new_err(format!(
            "{what} must be a number of seconds, got nan: check what computed it"
        )));
    }
    Ok(seconds)
}

#[cold]
fn number(given: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    if given.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!(
            "{what} must be a number of seconds, got {}: a bool is not meant as one",
            given.repr()?
        )));
    }
    given.extract::<f64>().map_err(|error| {
        let hint = if given.hasattr("total_seconds").unwrap_or(false) {
            "pass its total_seconds()"
        } else {
            "pass an int or a float"
        };
        let shown = given.repr().map_or_else(|_| given.get_type().to_string(), |repr| repr.to_string());
        if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(given.py()) {
            return PyValueError::new_err(format!("{what} is out of range: {shown}"));
        }
        PyTypeError::new_err(format!("{what} must be a number of seconds, got {shown}: {hint}"))
    })
}

/// Reads a number that is more than 0 and finite. `what` names it: `RateLimiter(rate=...)`.
///
/// # Errors
/// `TypeError` for anything but a number (a bool is not meant as one), `ValueError` out of range.
pub fn positive(given: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    let number = match given.extract::<f64>() {
        Ok(number) if !given.is_instance_of::<PyBool>() => number,
        _ => {
            return Err(PyTypeError::new_err(format!(
                "{what} must be a number, got {}: pass an int or a float",
                given.repr()?
            )));
        }
    };
    if number > 0.0 && number.is_finite() {
        return Ok(number);
    }
    Err(PyValueError::new_err(format!("{what} must be more than 0 and finite, got {}", given.repr()?)))
}

/// Reads a share: more than 0, and 1 at the most.
///
/// # Errors
/// As [`positive`].
pub fn share(given: &Bound<'_, PyAny>, what: &str) -> PyResult<f64> {
    let share = positive(given, what)?;
    if share <= 1.0 {
        return Ok(share);
    }
    Err(PyValueError::new_err(format!("{what} must be a share, more than 0 and up to 1, got {}", given.repr()?)))
}
