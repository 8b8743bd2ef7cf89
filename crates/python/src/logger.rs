//! Logger: what a log call does, up to the sink. Levels, names, and what every line gets besides its own fields.
//!
//! A call below its logger's level ends before its arguments are looked at: see [`Below`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use loopwright_core::log_text::Stamp;
use pyo3::exceptions::{PyBaseException, PyException, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyInt, PyString, PyTuple};
use pyo3::{PyTraverseError, PyVisit};

use crate::async_method::Gate;
use crate::bound::{self, Fields};
use crate::gil::GilCell;
use crate::log_line::{self, Head, Sources};
use crate::log_sink::LogSink;

const DEBUG: u8 = 10;
const INFO: u8 = 20;
const WARNING: u8 = 30;
const ERROR: u8 = 40;
const CRITICAL: u8 = 50;

/// A level by its number, as lines have it.
fn word(level: u8) -> &'static str {
    match level {
        ..INFO => "debug",
        INFO..WARNING => "info",
        WARNING..ERROR => "warning",
        ERROR..CRITICAL => "error",
        _ => "critical",
    }
}

/// A level as it is given: its name, or `logging`'s number.
fn level_of(given: &Bound<'_, PyAny>) -> PyResult<u8> {
    if given.is_instance_of::<PyInt>() && !given.is_instance_of::<PyBool>() {
        return match given.extract::<i64>() {
            Ok(number) if number >= 0 => Ok(u8::try_from(number).unwrap_or(u8::MAX)),
            _ => Err(PyValueError::new_err(format!("a level is a number of 0 or more, got {given}"))),
        };
    }
    let Ok(name) = given.cast::<PyString>() else {
        return Err(PyTypeError::new_err(format!(
            "a level is a name (\"info\") or a number (logging.INFO), got {}",
            given.repr()?
        )));
    };
    match name.to_string_lossy().to_ascii_lowercase().as_str() {
        "debug" => Ok(DEBUG),
        "info" => Ok(INFO),
        "warning" | "warn" => Ok(WARNING),
        "error" => Ok(ERROR),
        "critical" | "fatal" => Ok(CRITICAL),
        "off" => Ok(u8::MAX),
        _ => Err(PyValueError::new_err(format!(
            "a level is \"debug\", \"info\", \"warning\", \"error\", \"critical\" or \"off\", got {}",
            name.repr()?
        ))),
    }
}

/// What the loggers of one name share.
pub struct Site {
    name: String,
    /// Calls below this are nothing.
    level: AtomicU8,
}

struct Levels {
    default: u8,
    /// By name; a name holds for all names that begin with it and a dot.
    own: Vec<(String, u8)>,
    sites: Option<HashMap<String, Arc<Site>>>,
}

impl Levels {
    fn of(&self, name: &str) -> u8 {
        let holds = |own: &str| name.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let own = self.own.iter().filter(|(own, _)| holds(own)).max_by_key(|(own, _)| own.len());
        own.map_or(self.default, |&(_, level)| level)
    }
}

static LEVELS: Mutex<Levels> = Mutex::new(Levels { default: INFO, own: Vec::new(), sites: None });

fn levels() -> MutexGuard<'static, Levels> {
    LEVELS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is the same for all lines of the process.
struct Output {
    sink: Option<Py<LogSink>>,
    /// Functions that give more fields for each line.
    providers: Vec<Py<PyAny>>,
    stamp: Stamp,
    /// Lines are written here; taken out meanwhile, since values' code may log too.
    line: Vec<u8>,
}

static OUTPUT: GilCell<Output> =
    GilCell::new(Output { sink: None, providers: Vec::new(), stamp: Stamp::UNSET, line: Vec::new() });

/// Sets where lines go.
#[pyfunction]
#[pyo3(name = "_set_log_sink")]
pub fn set_log_sink<'py>(py: Python<'py>, sink: Bound<'py, LogSink>) -> Option<Bound<'py, LogSink>> {
    let old = OUTPUT.borrow(py).sink.replace(sink.unbind());
    old.map(|old| old.into_bound(py))
}

/// Where lines go; made on first use.
#[pyfunction]
#[pyo3(name = "_log_sink")]
pub fn log_sink(py: Python<'_>) -> PyResult<Bound<'_, LogSink>> {
    if let Some(sink) = &OUTPUT.borrow(py).sink {
        return Ok(sink.bind(py).clone());
    }
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let sink = MAKE.import(py, "loopwright.logs", "LogSink")?.call0()?.cast_into::<LogSink>()?;
    OUTPUT.borrow(py).sink = Some(sink.clone().unbind());
    Ok(sink)
}

/// Sets the levels: one for all names, and those of some.
#[pyfunction]
#[pyo3(name = "_set_log_levels")]
pub fn set_log_levels(default: &Bound<'_, PyAny>, own: &Bound<'_, PyDict>) -> PyResult<()> {
    let default = level_of(default)?;
    let own = own
        .iter()
        .map(|(name, level)| Ok((name.extract::<String>()?, level_of(&level)?)))
        .collect::<PyResult<Vec<_>>>()?;
    let mut levels = levels();
    levels.default = default;
    levels.own = own;
    for site in levels.sites.iter().flat_map(HashMap::values) {
        site.level.store(levels.of(&site.name), Ordering::Relaxed);
    }
    Ok(())
}

/// Adds a function that gives more fields for each line, or takes it away again.
#[pyfunction]
#[pyo3(name = "_provide_fields")]
pub fn provide_fields(py: Python<'_>, provider: Bound<'_, PyAny>, on: bool) {
    let removed = {
        let mut output = OUTPUT.borrow(py);
        let (gone, mut kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut output.providers).into_iter().partition(|known| known.is(&provider));
        if on {
            kept.push(provider.clone().unbind());
        }
        output.providers = kept;
        gone
    };
    drop(removed);
}

/// What the providers say now. One that fails is shown, and costs no line.
fn provided(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    let providers: Vec<Py<PyAny>> = {
        let output = OUTPUT.borrow(py);
        if output.providers.is_empty() {
            return Ok(None);
        }
        output.providers.iter().map(|provider| provider.clone_ref(py)).collect()
    };
    let fields = PyDict::new(py);
    for provider in providers {
        match provider.call0(py) {
            Ok(more) => match more.bind(py).cast::<PyDict>() {
                Ok(more) => fields.update(more.as_mapping())?,
                Err(_) if more.is_none(py) => {}
                Err(_) => fields.set_item("fields_error", "a provider of fields gave no dict")?,
            },
            Err(error) if error.is_instance_of::<PyException>(py) => {
                fields.set_item("fields_error", error.into_value(py))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(fields))
}

/// The text of a traceback.
fn traceback(py: Python<'_>, exception: &Bound<'_, PyAny>) -> PyResult<String> {
    static FORMAT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    FORMAT.import(py, "loopwright.logs", "_traceback")?.call1((exception,))?.extract()
}

/// The exception that `exc_info` means.
fn exception_of<'py>(given: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = given.py();
    if given.is_instance_of::<PyBaseException>() {
        return Ok(Some(given.clone()));
    }
    if let Ok(triple) = given.cast::<PyTuple>() {
        let exception = triple.get_item(1).ok();
        return Ok(exception.filter(|exception| exception.is_instance_of::<PyBaseException>()));
    }
    if !given.is_truthy()? {
        return Ok(None);
    }
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let current = CURRENT.import(py, "sys", "exception")?.call0()?;
    Ok((!current.is_none()).then_some(current))
}

/// Writes a line to a sink.
fn put(
    sink: &Bound<'_, LogSink>,
    head: &Head<'_>,
    event: &Bound<'_, PyAny>,
    sources: &Sources<'_, '_>,
    exception: Option<&str>,
    matters: bool,
) -> PyResult<()> {
    let py = sink.py();
    let (mut line, mut stamp) = {
        let mut output = OUTPUT.borrow(py);
        (std::mem::take(&mut output.line), std::mem::take(&mut output.stamp))
    };
    line.clear();
    let format = sink.get().line_format();
    let written = log_line::write(&mut line, &mut stamp, format, head, event, sources, exception);
    if written.is_ok() {
        sink.get().push(py, &line, matters);
    }
    let mut output = OUTPUT.borrow(py);
    if line.capacity() <= 64 * 1024 {
        output.line = line;
    }
    output.stamp = stamp;
    written
}

/// A record of :mod:`logging`, as a line; for ``LogHandler``.
#[pyfunction]
#[pyo3(name = "_log_record")]
#[expect(clippy::too_many_arguments, reason = "each is a part of a record")]
pub fn log_record(
    py: Python<'_>,
    sink: Option<Bound<'_, LogSink>>,
    created: f64,
    number: u32,
    level: &str,
    logger: &str,
    event: &Bound<'_, PyAny>,
    fields: Option<&Bound<'_, PyDict>>,
    exception: Option<&str>,
) -> PyResult<()> {
    let sink = sink.map_or_else(|| log_sink(py), Ok)?;
    let seconds = created.floor();
    #[expect(clippy::cast_possible_truncation, reason = "a time")]
    let time = (seconds as i64, ((created - seconds) * 1e6) as u32 % 1_000_000);
    let added = provided(py)?;
    let context = bound::current(py)?;
    let sources =
        Sources { added: added.as_ref(), context: context.as_ref().map(Bound::get), logger: None, call: fields };
    put(&sink, &Head { time, level, logger }, event, &sources, exception, number >= u32::from(WARNING))
}

/// The JSON of a dict, as a line has it; for structlog.
#[pyfunction]
#[pyo3(name = "_render_json")]
pub fn render_json(fields: &Bound<'_, PyDict>) -> PyResult<String> {
    let mut out = Vec::new();
    log_line::write_mapping(&mut out, fields)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Log calls under one name. Made by :func:`loopwright.get_logger`, and by :meth:`bind` from another.
///
/// ``log.info("order placed", id=7)`` is one line with what happened, the fields of the call, those bound to the logger
/// and those of the context (:class:`loopwright.bind`); where a name is in several, the call's wins, then the logger's.
///
/// The call returns when the line is in the sink's memory: it never waits for a file, a pipe or a terminal, and never
/// raises because of what a value is. Positional arguments are for ``%`` in the event, as in :mod:`logging`. A true
/// ``exc_info`` (or an exception) adds the traceback. Any thread may call it, with or without an event loop.
#[pyclass(module = "loopwright", name = "Logger", frozen, weakref)]
pub struct Logger {
    site: Arc<Site>,
    fields: Option<Py<Fields>>,
}

impl Logger {
    #[inline]
    fn is_on(&self, level: u8) -> bool {
        level >= self.site.level.load(Ordering::Relaxed)
    }

    #[inline]
    fn log_at(
        &self,
        level: u8,
        event: &Bound<'_, PyAny>,
        arguments: &Bound<'_, PyTuple>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        if !self.is_on(level) {
            return Ok(());
        }
        let py = event.py();
        let mut exception = None;
        if let Some(fields) = fields
            && let Some(given) = fields.get_item(intern!(py, "exc_info"))?
        {
            fields.del_item(intern!(py, "exc_info"))?;
            if let Some(given) = exception_of(&given)? {
                exception = Some(traceback(py, &given)?);
            }
        }
        let formatted;
        let event = if arguments.is_empty() {
            event
        } else {
            formatted = format(event, arguments)?;
            &formatted
        };
        let sink = log_sink(py)?;
        let added = provided(py)?;
        let context = bound::current(py)?;
        let sources = Sources {
            added: added.as_ref(),
            context: context.as_ref().map(Bound::get),
            logger: self.fields.as_ref().map(Py::get),
            call: fields.filter(|fields| !fields.is_empty()),
        };
        let head = Head { time: log_line::now(), level: word(level), logger: &self.site.name };
        put(&sink, &head, event, &sources, exception.as_deref(), level >= WARNING)
    }
}

/// `event % arguments`; where they do not fit, both as they are.
fn format<'py>(event: &Bound<'py, PyAny>, arguments: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    let py = event.py();
    // As in `logging`: a single dict is what %(name)s takes from.
    let given = match arguments.get_item(0) {
        Ok(only) if arguments.len() == 1 && only.is_instance_of::<PyDict>() => only,
        _ => arguments.as_any().clone(),
    };
    match event.rem(&given) {
        Err(error) if error.is_instance_of::<PyException>(py) => {
            Ok(PyTuple::new(py, [event, arguments.as_any()])?.into_any())
        }
        formatted => formatted,
    }
}

#[pymethods]
impl Logger {
    /// For what only a developer wants to know.
    #[pyo3(signature = (event, /, *args, **fields))]
    fn debug(
        &self,
        event: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.log_at(DEBUG, event, args, fields)
    }

    /// For what happened as it should.
    #[pyo3(signature = (event, /, *args, **fields))]
    fn info(
        &self,
        event: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.log_at(INFO, event, args, fields)
    }

    /// For what should not have happened, and was coped with.
    #[pyo3(signature = (event, /, *args, **fields))]
    fn warning(
        &self,
        event: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.log_at(WARNING, event, args, fields)
    }

    /// For what failed.
    #[pyo3(signature = (event, /, *args, **fields))]
    fn error(
        &self,
        event: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.log_at(ERROR, event, args, fields)
    }

    /// For what ends the service.
    #[pyo3(signature = (event, /, *args, **fields))]
    fn critical(
        &self,
        event: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.log_at(CRITICAL, event, args, fields)
    }

    /// :meth:`error`, with the traceback of the exception that is being handled (``exc_info=True``).
    #[pyo3(signature = (event, /, *args, **fields))]
    fn exception(
        &self,
        event: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = event.py();
        let fields = fields.map_or_else(|| PyDict::new(py), Clone::clone);
        if !fields.contains(intern!(py, "exc_info"))? {
            fields.set_item(intern!(py, "exc_info"), true)?;
        }
        self.log_at(ERROR, event, args, Some(&fields))
    }

    /// A line of any level: ``"info"``, or ``logging.INFO``.
    ///
    /// Raises:
    ///     TypeError, ValueError: it is no level.
    #[pyo3(signature = (level, event, /, *args, **fields))]
    fn log(
        &self,
        level: &Bound<'_, PyAny>,
        event: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        fields: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.log_at(level_of(level)?, event, args, fields)
    }

    /// Returns:
    ///     A logger of the same name that adds these fields to each of its lines.
    #[pyo3(signature = (**fields))]
    fn bind(&self, py: Python<'_>, fields: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let none = PyDict::new(py);
        let merged = Fields::merged(py, self.fields.as_ref().map(Py::get), fields.unwrap_or(&none))?;
        Ok(Self { site: Arc::clone(&self.site), fields: Some(Py::new(py, merged)?) })
    }

    /// Whether a line of this level would be written.
    fn is_enabled(&self, level: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.is_on(level_of(level)?))
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.site.name
    }

    /// The lowest level that is written, as :mod:`logging` numbers it.
    #[getter]
    fn level(&self) -> u8 {
        self.site.level.load(Ordering::Relaxed)
    }

    fn __repr__(&self) -> String {
        let fields = if self.fields.is_some() { " with fields" } else { "" };
        format!("<Logger {:?} level={}{fields}>", self.site.name, word(self.site.level.load(Ordering::Relaxed)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.fields.as_ref().map_or(Ok(()), |fields| visit.call(fields))
    }
}

/// Closes the way to a method whose level is not on.
pub struct Below<const LEVEL: u8>;

impl<const LEVEL: u8> Gate for Below<LEVEL> {
    type Owner = Logger;

    #[inline]
    fn is_shut(logger: &Bound<'_, Logger>) -> bool {
        !logger.get().is_on(LEVEL)
    }
}

/// The logger of a name.
#[pyfunction]
#[pyo3(name = "_get_logger")]
pub fn get_logger(name: &str) -> Logger {
    let mut levels = levels();
    let level = levels.of(name);
    let site = levels
        .sites
        .get_or_insert_default()
        .entry(name.to_owned())
        .or_insert_with(|| Arc::new(Site { name: name.to_owned(), level: AtomicU8::new(level) }));
    Logger { site: Arc::clone(site), fields: None }
}
