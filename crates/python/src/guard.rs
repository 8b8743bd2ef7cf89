//! The guard's task factory: counts tasks and notes the line that created each.
//!
//! A note is an attribute on the task, a string that all tasks of one line share. The line is the innermost frame
//! outside asyncio and Loopwright; which code is inside is decided once per code object, and what a line is called
//! once per line.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyCode, PyDict, PyFrame, PyFrameMethods as _, PyString, PyTuple};
use pyo3::{intern, types::IntoPyDict as _};

/// Lines remembered; a program that makes code as it runs stops gaining new ones.
const MAX_LINES: usize = 10_000;
/// How many frames are looked through.
const MAX_DEPTH: usize = 16;

/// What all factories of one run share.
struct Sites {
    started: AtomicU64,
    /// Files under these directories are nobody's own code.
    inside: Vec<String>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By address; the reference keeps the address from being used again.
    codes: HashMap<usize, (Py<PyCode>, bool)>,
    lines: HashMap<(usize, i32), Py<PyString>>,
}

impl Sites {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `file.py:12 in serve` for the innermost frame that is the program's.
    fn find<'py>(&self, py: Python<'py>, frame: Bound<'py, PyFrame>) -> PyResult<Option<Py<PyString>>> {
        let mut frame = Some(frame);
        for _ in 0..MAX_DEPTH {
            let Some(here) = frame else { return Ok(None) };
            let code = here.code();
            if self.is_inside(py, &code)? {
                frame = here.outer();
                continue;
            }
            let line = here.line_number();
            let key = (code.as_ptr() as usize, line);
            if let Some(site) = self.known().lines.get(&key) {
                return Ok(Some(site.clone_ref(py)));
            }
            let file: String = code.getattr(intern!(py, "co_filename"))?.extract()?;
            let name: String = code.getattr(intern!(py, "co_qualname"))?.extract()?;
            let site = PyString::new(py, &format!("{file}:{line} in {name}")).unbind();
            let mut known = self.known();
            if known.lines.len() < MAX_LINES {
                known.lines.insert(key, site.clone_ref(py));
            }
            return Ok(Some(site));
        }
        Ok(None)
    }

    fn is_inside(&self, py: Python<'_>, code: &Bound<'_, PyCode>) -> PyResult<bool> {
        let key = code.as_ptr() as usize;
        if let Some((_, inside)) = self.known().codes.get(&key) {
            return Ok(*inside);
        }
        let file: String = code.getattr(intern!(py, "co_filename"))?.extract()?;
        let inside = self.inside.iter().any(|directory| file.starts_with(directory));
        let mut known = self.known();
        if known.codes.len() < MAX_LINES {
            known.codes.insert(key, (code.clone().unbind(), inside));
        }
        Ok(inside)
    }
}

/// A task factory in front of the program's own.
#[pyclass(frozen, module = "loopwright._loopwright")]
pub struct TaskFactory {
    sites: Arc<Sites>,
    task: Py<PyAny>,
    getframe: Py<PyAny>,
    inner: Mutex<Option<Py<PyAny>>>,
}

#[pymethods]
impl TaskFactory {
    /// `inside`: directories whose code creates tasks for others. `like`: a factory to share counts with.
    #[new]
    #[pyo3(signature = (inside, like=None))]
    fn new(py: Python<'_>, inside: Vec<String>, like: Option<PyRef<'_, Self>>) -> PyResult<Self> {
        let sites = like.map_or_else(
            || Arc::new(Sites { started: AtomicU64::new(0), inside, known: Mutex::default() }),
            |like| Arc::clone(&like.sites),
        );
        Ok(Self {
            sites,
            task: py.import("asyncio")?.getattr("Task")?.unbind(),
            getframe: py.import("sys")?.getattr("_getframe")?.unbind(),
            inner: Mutex::new(None),
        })
    }

    #[pyo3(signature = (event_loop, coro, /, **kwargs))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        event_loop: &Bound<'py, PyAny>,
        coro: &Bound<'py, PyAny>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let inner = self.inner().as_ref().map(|inner| inner.clone_ref(py));
        let task = match (inner, kwargs) {
            (Some(inner), _) => inner.into_bound(py).call((event_loop, coro), kwargs)?,
            (None, Some(kwargs)) => {
                kwargs.set_item(intern!(py, "loop"), event_loop)?;
                self.task.bind(py).call(PyTuple::new(py, [coro])?, Some(kwargs))?
            }
            (None, None) => {
                let kwargs = [(intern!(py, "loop"), event_loop)].into_py_dict(py)?;
                self.task.bind(py).call(PyTuple::new(py, [coro])?, Some(&kwargs))?
            }
        };
        self.sites.started.fetch_add(1, Ordering::Relaxed);
        let frame = self.getframe.bind(py).call0()?.cast_into::<PyFrame>()?;
        if let Some(site) = self.sites.find(py, frame)? {
            // A task class of the program's own may refuse attributes; then its line is unknown.
            _ = task.setattr(intern!(py, "_loopwright_site"), site);
        }
        Ok(task)
    }

    /// The program's own factory.
    #[getter]
    fn get_inner(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner().as_ref().map(|inner| inner.clone_ref(py))
    }

    #[setter]
    fn set_inner(&self, factory: Option<Py<PyAny>>) {
        let old = std::mem::replace(&mut *self.inner(), factory);
        drop(old);
    }

    /// Tasks started by all factories that share counts.
    #[getter]
    fn started(&self) -> u64 {
        self.sites.started.load(Ordering::Relaxed)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(inner) = self.inner.try_lock() {
            visit.call(&*inner)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let old = self.inner().take();
        drop(old);
    }
}

impl TaskFactory {
    fn inner(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
