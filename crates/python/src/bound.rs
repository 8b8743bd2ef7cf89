//! bind, unbind, bound: the fields of the context, which every log line carries.
//!
//! They live in one `contextvars` variable, as an object that never changes: tasks, callbacks and `to_thread` copy
//! contexts anyway, so what is bound in one of them is never seen by another.

use std::sync::OnceLock;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::aio;
use crate::gil::GilCell;
use crate::log_line;

/// Fields that belong together; never changed.
#[pyclass(module = "loopwright._loopwright", name = "_Fields", frozen)]
pub struct Fields {
    pairs: Vec<(Py<PyString>, Py<PyAny>)>,
    /// Their JSON, where it cannot change: made once. None: the values may change, or are not that simple.
    json: OnceLock<Option<Box<[u8]>>>,
}

impl Fields {
    /// `base` with `more` added; what is in both is as in `more`.
    ///
    /// # Errors
    /// A name that is no string.
    pub fn merged(py: Python<'_>, base: Option<&Self>, more: &Bound<'_, PyDict>) -> PyResult<Self> {
        let mut pairs = Vec::with_capacity(base.map_or(0, |base| base.pairs.len()) + more.len());
        for (name, value) in base.into_iter().flat_map(|base| &base.pairs) {
            let value = more.get_item(name)?.map_or_else(|| value.clone_ref(py), Bound::unbind);
            pairs.push((name.clone_ref(py), value));
        }
        for (name, value) in more {
            let name = name.cast_into::<PyString>()?;
            if !base.is_some_and(|base| base.has(&name)) {
                pairs.push((name.unbind(), value.unbind()));
            }
        }
        Ok(Self { pairs, json: OnceLock::new() })
    }

    fn without(&self, py: Python<'_>, names: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let mut pairs = Vec::new();
        for (name, value) in &self.pairs {
            if !names.contains(name)? {
                pairs.push((name.clone_ref(py), value.clone_ref(py)));
            }
        }
        Ok(Self { pairs, json: OnceLock::new() })
    }

    fn has(&self, name: &Bound<'_, PyString>) -> bool {
        self.pairs.iter().any(|(known, _)| {
            let known = known.bind(name.py());
            known.is(name) || known.as_any().eq(name).unwrap_or(false)
        })
    }

    /// Names and values, in the order in which they were bound.
    pub fn pairs<'a, 'py: 'a>(
        &'a self,
        py: Python<'py>,
    ) -> impl Iterator<Item = (&'a Bound<'py, PyString>, &'a Bound<'py, PyAny>)> {
        self.pairs.iter().map(move |(name, value)| (name.bind(py), value.bind(py)))
    }

    /// Their JSON as it stands in a line, when that is the same in each.
    pub fn json(&self, py: Python<'_>) -> Option<&[u8]> {
        self.json.get_or_init(|| log_line::constant(py, self)).as_deref()
    }

    fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, value) in &self.pairs {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }
}

#[pymethods]
impl Fields {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.pairs.iter().try_for_each(|(_, value)| visit.call(value))
    }
}

fn variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || -> PyResult<Py<PyAny>> {
        let class = py.import("contextvars")?.getattr("ContextVar")?;
        Ok(class.call1(("loopwright.bound",))?.unbind())
    };
    VARIABLE.get_or_try_init(py, make).map(|variable| variable.bind(py))
}

/// The fields of the running context.
///
/// # Errors
/// None that is known: what the interpreter raises.
#[inline]
pub fn current(py: Python<'_>) -> PyResult<Option<Bound<'_, Fields>>> {
    let found = aio::context_value(variable(py)?)?;
    Ok(found.and_then(|found| found.cast_into::<Fields>().ok()))
}

fn set<'py>(py: Python<'py>, fields: Fields) -> PyResult<Bound<'py, PyAny>> {
    variable(py)?.call_method1(intern!(py, "set"), (Py::new(py, fields)?,))
}

/// Binds fields to the context: from here on every log line of it carries them, ours and, through
/// :class:`loopwright.LogHandler`, :class:`loopwright.LogFilter` or structlog, those of existing log calls.
///
/// ``bind(user=1)`` lasts until the context ends, or until :func:`unbind`. ``with bind(user=1):`` lasts as long as the
/// block; at its end the fields are what they were before it, whatever was bound or unbound inside and however it ends.
///
/// A context is what :mod:`contextvars` calls one: each task has its own, begun as a copy of its creator's, and so have
/// callbacks, ``asyncio.to_thread`` and :func:`loopwright.offload`. What a task binds is therefore seen by what it
/// starts, and by nobody else. For threads and processes of other makers there is :func:`loopwright.carry`.
///
/// Parameters:
///     fields: any names and values. A name that is bound already is bound anew.
///
/// Values are rendered when a line is written, except numbers, strings and the like, which cannot change. A block that is
/// left in another context than it was entered in (an async generator that another task closes) leaves that one alone.
#[pyclass(module = "loopwright", name = "bind", frozen)]
pub struct Bind {
    token: GilCell<Option<Py<PyAny>>>,
}

#[pymethods]
impl Bind {
    #[new]
    #[pyo3(signature = (**fields))]
    fn new(py: Python<'_>, fields: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let before = current(py)?;
        let none = PyDict::new(py);
        let merged = Fields::merged(py, before.as_ref().map(Bound::get), fields.unwrap_or(&none))?;
        Ok(Self { token: GilCell::new(Some(set(py, merged)?.unbind())) })
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, py: Python<'_>, _error: &Bound<'_, PyTuple>) -> PyResult<()> {
        let token = self.token.borrow(py).take();
        let Some(token) = token else {
            return Err(PyRuntimeError::new_err("bind(...) is for one `with` block: call it anew for each"));
        };
        match variable(py)?.call_method1(intern!(py, "reset"), (token,)) {
            Err(error) if error.is_instance_of::<PyValueError>(py) => Ok(()), // another context
            left => left.map(drop),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> &'static str {
        if self.token.borrow(py).is_some() { "<bind>" } else { "<bind, left>" }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.token.traverse(&visit, |token| token.as_ref().map_or(Ok(()), |token| visit.call(token)))
    }
}

/// Takes fields out of the context again; without names, all of them. One that is not bound is no error.
#[pyfunction]
#[pyo3(signature = (*names))]
pub fn unbind(py: Python<'_>, names: &Bound<'_, PyTuple>) -> PyResult<()> {
    let Some(before) = current(py)? else { return Ok(()) };
    let left = if names.is_empty() {
        Fields { pairs: Vec::new(), json: OnceLock::new() }
    } else {
        before.get().without(py, names)?
    };
    set(py, left).map(drop)
}

/// Returns:
///     The fields of the context, as a new dict.
#[pyfunction]
pub fn bound(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    current(py)?.map_or_else(|| Ok(PyDict::new(py)), |fields| fields.get().to_dict(py))
}
