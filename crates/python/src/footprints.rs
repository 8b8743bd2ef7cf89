//! Footprints: what each step of a simulated loop touches, by the lines that it runs.
//!
//! `sys.monitoring` calls [`Footprints::line`] for every line that is not switched off. What a line touches does not
//! change, so it is asked for once, of Python's analyser (`loopwright.testing._footprints`, which also says what it
//! means), and looked up after that. A line that touches nothing is switched off, for good.
//!
//! Lives here: the tables, and telling the loop. Does not live here: what a line touches.

use std::collections::HashMap;

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::gil::GilCell;
use crate::sim::SimCore;

/// What a place in the code touches: locations, and whether each may be changed; then the meetings that it comes to.
type Touches = (Vec<(u32, bool)>, Vec<u32>);

/// A line, or an instruction at which a coroutine goes on: code object by address, and where in it.
type Place = (usize, i32);

#[derive(Default)]
struct Tables {
    lines: HashMap<Place, Option<Touches>>,
    resumptions: HashMap<Place, Option<Touches>>,
    /// The code objects that are keys above: their addresses are not used again.
    codes: Vec<Py<PyAny>>,
    watched: Option<Py<SimCore>>,
}

/// See the module's documentation.
#[pyclass(module = "loopwright._loopwright", name = "_Footprints", frozen)]
pub struct Footprints {
    tables: GilCell<Tables>,
    /// `(code, line) -> touches`, and the same for an instruction's offset; None: nothing.
    of_line: Py<PyAny>,
    of_resumption: Py<PyAny>,
    /// `sys.monitoring.DISABLE`.
    disable: Py<PyAny>,
}

#[derive(Clone, Copy)]
enum Table {
    Lines,
    Resumptions,
}

impl Footprints {
    fn touch<'py>(slf: &Bound<'py, Self>, table: Table, code: &Bound<'py, PyAny>, at: i32) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let place = (code.as_ptr() as usize, at);
        {
            let tables = &mut *this.tables.borrow(py);
            let known = match table {
                Table::Lines => tables.lines.get(&place),
                Table::Resumptions => tables.resumptions.get(&place),
            };
            match known {
                Some(Some((accesses, meetings))) => {
                    if let Some(core) = &tables.watched {
                        SimCore::access(core.bind(py), accesses, meetings);
                    }
                    return Ok(py.None());
                }
                Some(None) => return Ok(this.disable.clone_ref(py)),
                None => {}
            }
        }
        let analyser = match table {
            Table::Lines => &this.of_line,
            Table::Resumptions => &this.of_resumption,
        };
        let touches: Option<Touches> = analyser.bind(py).call1((code, at))?.extract()?;
        {
            let tables = &mut *this.tables.borrow(py);
            tables.codes.push(code.clone().unbind());
            match table {
                Table::Lines => tables.lines.insert(place, touches),
                Table::Resumptions => tables.resumptions.insert(place, touches),
            };
        }
        Self::touch(slf, table, code, at)
    }
}

#[pymethods]
impl Footprints {
    #[new]
    fn new(of_line: Py<PyAny>, of_resumption: Py<PyAny>, disable: Py<PyAny>) -> Self {
        Self { tables: GilCell::new(Tables::default()), of_line, of_resumption, disable }
    }

    /// The loop whose steps are told what they touch; None: nobody.
    fn watch(slf: &Bound<'_, Self>, core: Option<Py<SimCore>>) {
        let old = std::mem::replace(&mut slf.get().tables.borrow(slf.py()).watched, core);
        drop(old);
    }

    /// For `sys.monitoring.events.LINE`.
    fn line<'py>(slf: &Bound<'py, Self>, code: &Bound<'py, PyAny>, line: i32) -> PyResult<Py<PyAny>> {
        Self::touch(slf, Table::Lines, code, line)
    }

    /// For `sys.monitoring.events.PY_RESUME`: the rest of a line runs after an await.
    fn resumed<'py>(slf: &Bound<'py, Self>, code: &Bound<'py, PyAny>, offset: i32) -> PyResult<Py<PyAny>> {
        Self::touch(slf, Table::Resumptions, code, offset)
    }

    /// The running step touched something that the lines do not tell.
    fn touched(slf: &Bound<'_, Self>, location: u32, write: bool) {
        let py = slf.py();
        let tables = slf.get().tables.borrow(py);
        if let Some(core) = &tables.watched {
            SimCore::access(core.bind(py), &[(location, write)], &[]);
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.tables.traverse(&visit, |tables| {
            tables.codes.iter().try_for_each(|code| visit.call(code))?;
            tables.watched.as_ref().map_or(Ok(()), |core| visit.call(core))
        })?;
        visit.call(&self.of_line)?;
        visit.call(&self.of_resumption)
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = std::mem::take(&mut *self.tables.borrow(py));
        drop(cleared);
    }
}
