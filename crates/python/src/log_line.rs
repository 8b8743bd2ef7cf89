//! One log line from Python objects: which fields, in which order, and the text of each. Characters, digits and dates are
//! `loopwright_core::log_text`.
//!
//! **A line never fails, and never grows without bound.** What cannot be shown is shown as such: a `__repr__` that raises,
//! a container inside of itself, a text that is no Unicode. Only what is not an `Exception` (Ctrl-C) passes. Python code
//! of the values may run here, so nothing is borrowed meanwhile, and containers are copied before they are walked.

use std::fmt::Write as _;

use loopwright_core::log_text::{self, Stamp};
use pyo3::exceptions::{PyBaseException, PyBaseExceptionGroup, PyException};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDate, PyDateAccess, PyDateTime, PyDelta, PyDict, PyFloat, PyFrozenSet, PyInt,
    PyList, PySet, PyString, PyTime, PyTimeAccess, PyTuple, PyTzInfo, PyTzInfoAccess,
};

use crate::bound::Fields;

/// The longest text of one value, in bytes.
const LONGEST: usize = 64 * 1024;
/// A line of this many bytes takes no more values.
const FULL: usize = 256 * 1024;
/// Containers inside of containers.
const DEEPEST: usize = 16;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    Json,
    /// For people.
    Console {
        /// With the colours of a terminal.
        colour: bool,
    },
}

/// What stands at the beginning of a line.
pub struct Head<'a> {
    /// Seconds and microseconds since 1970, UTC.
    pub time: (i64, u32),
    /// `"info"`.
    pub level: &'a str,
    /// The logger's name.
    pub logger: &'a str,
}

/// Where the fields come from; a name that is in several is as in the last of them.
#[derive(Default)]
pub struct Sources<'a, 'py> {
    /// What [`crate::logger`]'s providers add.
    pub added: Option<&'a Bound<'py, PyDict>>,
    /// The context's.
    pub context: Option<&'a Fields>,
    /// The logger's own.
    pub logger: Option<&'a Fields>,
    /// Those of the call.
    pub call: Option<&'a Bound<'py, PyDict>>,
}

/// The system's clock.
#[inline]
pub fn now() -> (i64, u32) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    (now.tv_sec, (now.tv_nsec / 1_000) as u32)
}

/// Writes a line, line break included. `exception` is a traceback's text.
///
/// # Errors
/// What a value's `__repr__` raised and is no `Exception`.
pub fn write(
    out: &mut Vec<u8>,
    stamp: &mut Stamp,
    format: Format,
    head: &Head<'_>,
    event: &Bound<'_, PyAny>,
    sources: &Sources<'_, '_>,
    exception: Option<&str>,
) -> PyResult<()> {
    let (seconds, micros) = head.time;
    let mut line = Line { out, format, inside: Vec::new() };
    match format {
        Format::Json => {
            line.raw(b"{\"timestamp\":\"");
            stamp.iso(line.out, seconds, micros);
            line.raw(b"\",\"level\":");
            log_text::json_string(line.out, head.level);
            line.raw(b",\"logger\":");
            log_text::json_string(line.out, head.logger);
            line.raw(b",\"event\":");
            line.value(event)?;
            line.sources(event.py(), sources)?;
            if let Some(exception) = exception {
                line.raw(b",\"exception\":");
                line.text(exception);
            }
            line.raw(b"}\n");
        }
        Format::Console { colour } => {
            stamp.short(line.out, seconds, micros);
            line.out.push(b' ');
            line.painted(colour, colour_of(head.level), |out| {
                log_text::console_inside(out, head.level, false);
            });
            line.raw(&b"         "[head.level.len().min(8)..]);
            log_text::console_inside(line.out, head.logger, false);
            line.raw(b"  ");
            let shown = shown(event)?;
            line.painted(colour, b"1", |out| log_text::console_inside(out, cut(&shown).0, false));
            line.sources(event.py(), sources)?;
            line.out.push(b'\n');
            for row in exception.map(cut).into_iter().flat_map(|(text, _)| text.lines()) {
                log_text::console_inside(line.out, row, false);
                line.out.push(b'\n');
            }
        }
    }
    Ok(())
}

/// The line that says that lines were dropped.
pub fn write_gap(out: &mut Vec<u8>, stamp: &mut Stamp, format: Format, lost: u64) {
    const LOGGER: &str = "loopwright.logs";
    const EVENT: &str = "log lines dropped: the sink is slower than what is logged";
    let (seconds, micros) = now();
    match format {
        Format::Json => {
            out.extend_from_slice(b"{\"timestamp\":\"");
            stamp.iso(out, seconds, micros);
            let mut text = String::new();
            _ = write!(
                text,
                "\",\"level\":\"warning\",\"logger\":\"{LOGGER}\",\"event\":\"{EVENT}\",\"dropped\":{lost}}}"
            );
            out.extend_from_slice(text.as_bytes());
        }
        Format::Console { .. } => {
            stamp.short(out, seconds, micros);
            out.extend_from_slice(format!(" warning  {LOGGER}  {EVENT} dropped={lost}").as_bytes());
        }
    }
    out.push(b'\n');
}

/// The JSON of fields that cannot change, as it stands in a line; None if one of them may.
pub fn constant(py: Python<'_>, fields: &Fields) -> Option<Box<[u8]>> {
    let mut out = Vec::new();
    let mut line = Line { out: &mut out, format: Format::Json, inside: Vec::new() };
    for (name, value) in fields.pairs(py) {
        let simple = value.is_none()
            || value.is_exact_instance_of::<PyString>()
            || value.is_exact_instance_of::<PyInt>()
            || value.is_exact_instance_of::<PyFloat>()
            || value.is_exact_instance_of::<PyBool>();
        if !simple || line.field(name, value).is_err() {
            return None;
        }
    }
    Some(out.into_boxed_slice())
}

/// The JSON of a mapping, in its order: what structlog's last processor does.
///
/// # Errors
/// As [`write`].
pub fn write_mapping(out: &mut Vec<u8>, fields: &Bound<'_, PyDict>) -> PyResult<()> {
    Line { out, format: Format::Json, inside: Vec::new() }.value(fields)
}

struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
    /// The containers that are being walked, by address.
    inside: Vec<usize>,
}

impl Line<'_> {
    #[inline]
    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn painted(&mut self, colour: bool, code: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        if colour {
            self.raw(b"\x1b[");
            self.raw(code);
            self.raw(b"m");
        }
        write(self.out);
        if colour {
            self.raw(b"\x1b[0m");
        }
    }

    #[inline]
    fn sources(&mut self, py: Python<'_>, sources: &Sources<'_, '_>) -> PyResult<()> {
        let Sources { added, context, logger, call } = *sources;
        if let Some(added) = added {
            let over = [context, logger];
            for (name, value) in added {
                let Ok(name) = name.cast_into::<PyString>() else { continue };
                if !is_over(py, &name, &over, call)? {
                    self.field(&name, &value)?;
                }
            }
        }
        if let Some(context) = context {
            self.fields(py, context, &[logger], call)?;
        }
        if let Some(logger) = logger {
            self.fields(py, logger, &[], call)?;
        }
        for (name, value) in call.into_iter().flatten() {
            // A keyword is a string; what a record's `extra` has may be anything.
            if let Ok(name) = name.cast::<PyString>() {
                self.field(name, &value)?;
            }
        }
        Ok(())
    }

    /// Fields, but those that `over` or `call` has too.
    #[inline]
    fn fields(
        &mut self,
        py: Python<'_>,
        fields: &Fields,
        over: &[Option<&Fields>],
        call: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let mut hidden = false;
        if call.is_some() || over.iter().any(Option::is_some) {
            for (name, _) in fields.pairs(py) {
                hidden |= is_over(py, name, over, call)?;
            }
        }
        if !hidden
            && self.format == Format::Json
            && let Some(json) = fields.json(py)
        {
            self.raw(json);
            return Ok(());
        }
        for (name, value) in fields.pairs(py) {
            if !hidden || !is_over(py, name, over, call)? {
                self.field(name, value)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn field(&mut self, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let utf8 = name.to_str();
        let lossy;
        let text = match utf8 {
            Ok(text) => text,
            Err(_) => {
                lossy = backslashed(name);
                &lossy
            }
        };
        // The names of the head are not given twice.
        let mark = match text {
            "timestamp" | "level" | "logger" | "event" | "exception" => "_",
            _ => "",
        };
        match self.format {
            Format::Json => {
                self.raw(b",\"");
                log_text::json_inside(self.out, text);
                self.raw(mark.as_bytes());
                self.raw(b"\":");
                self.value(value)
            }
            Format::Console { colour } => {
                self.out.push(b' ');
                self.painted(colour, b"36", |out| log_text::console_inside(out, text, false));
                self.raw(mark.as_bytes());
                self.out.push(b'=');
                self.console_value(value)
            }
        }
    }

    /// A string of JSON, cut where it is too long.
    fn text(&mut self, text: &str) {
        let (kept, more) = cut(text);
        self.out.push(b'"');
        log_text::json_inside(self.out, kept);
        if more > 0 {
            self.raw(format!("... ({more} more bytes)").as_bytes());
        }
        self.out.push(b'"');
    }

    #[inline]
    fn string(&mut self, text: &Bound<'_, PyString>) {
        match text.to_str() {
            Ok(text) if text.len() <= LONGEST => log_text::json_string(self.out, text),
            Ok(text) => self.text(text),
            Err(_) => self.text(&backslashed(text)),
        }
    }

    /// Any value, as JSON.
    #[inline]
    fn value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = value.cast_exact::<PyString>() {
            self.string(text);
        } else if value.is_exact_instance_of::<PyInt>()
            && let Ok(number) = value.extract::<i64>()
        {
            log_text::integer(self.out, number);
        } else if value.is_none() {
            self.raw(b"null");
        } else if let Ok(truth) = value.cast_exact::<PyBool>() {
            self.raw(if truth.is_true() { b"true" } else { b"false" });
        } else if let Ok(number) = value.cast_exact::<PyFloat>() {
            log_text::float(self.out, number.value(), true);
        } else {
            return self.other(value);
        }
        Ok(())
    }

    fn other(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let start = self.out.len();
        if start > FULL {
            self.raw(b"\"...\"");
            return Ok(());
        }
        self.try_other(value).or_else(|error| {
            self.out.truncate(start);
            let text = unprintable(value, error)?;
            self.text(&text);
            Ok(())
        })
    }

    fn try_other(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(text) = value.cast::<PyString>() {
            self.string(text);
        } else if let Ok(number) = value.cast::<PyFloat>() {
            log_text::float(self.out, number.value(), true);
        } else if let Ok(number) = value.cast::<PyInt>() {
            self.big(number);
        } else if is_container(value) {
            return self.container(value);
        } else if is_time(value) && moment(self.out, value, true) {
            return Ok(());
        } else {
            let text = shown(value)?;
            self.text(&text);
        }
        Ok(())
    }

    /// A whole number that is not simply an `int` of 64 bits: `int`'s own digits, whatever a subclass says.
    fn big(&mut self, number: &Bound<'_, PyInt>) {
        static DIGITS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = number.py();
        if let Ok(number) = number.extract::<i64>() {
            return log_text::integer(self.out, number);
        }
        let digits = || -> PyResult<String> {
            let make = || Ok::<_, PyErr>(py.get_type::<PyInt>().getattr("__repr__")?.unbind());
            DIGITS.get_or_try_init(py, make)?.bind(py).call1((number,))?.extract()
        };
        match digits() {
            Ok(digits) => self.raw(digits.as_bytes()),
            Err(_) => self.raw(b"\"<int of too many digits>\""), // sys.set_int_max_str_digits
        }
    }

    fn container(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let address = value.as_ptr() as usize;
        if self.inside.contains(&address) {
            self.raw(b"\"<cycle>\"");
            return Ok(());
        }
        if self.inside.len() >= DEEPEST {
            self.raw(b"\"<nested too deeply>\"");
            return Ok(());
        }
        self.inside.push(address);
        let walked = self.walk(value);
        self.inside.pop();
        walked
    }

    fn walk(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        if let Ok(dict) = value.cast::<PyDict>() {
            self.out.push(b'{');
            let entries: Vec<_> = dict.iter().collect(); // values' code may change it
            for (at, (key, value)) in entries.into_iter().enumerate() {
                if at > 0 {
                    self.out.push(b',');
                }
                if self.out.len() > FULL {
                    self.raw(b"\"...\":\"...\"");
                    break;
                }
                match key.cast_exact::<PyString>() {
                    Ok(key) => self.string(key),
                    Err(_) => {
                        let text = shown(&key)?;
                        self.text(&text);
                    }
                }
                self.out.push(b':');
                self.value(&value)?;
            }
            self.out.push(b'}');
            return Ok(());
        }
        let items = match value.cast::<PyTuple>() {
            Ok(items) => items.clone(),
            Err(_) => match value.cast::<PyList>() {
                Ok(items) => items.to_tuple(),
                Err(_) => match value.cast::<PySet>() {
                    Ok(items) => PyTuple::new(py, items.iter().collect::<Vec<_>>())?,
                    Err(_) => PyTuple::new(py, value.cast::<PyFrozenSet>()?.iter().collect::<Vec<_>>())?,
                },
            },
        };
        self.out.push(b'[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            if self.out.len() > FULL {
                self.raw(b"\"...\"");
                break;
            }
            self.value(&item)?;
        }
        self.out.push(b']');
        Ok(())
    }

    /// Any value, for a person.
    fn console_value(&mut self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let number = value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>() || value.is_none();
        let container = !number && is_container(value);
        if number || container {
            let mut json = Vec::new();
            Line { out: &mut json, format: Format::Json, inside: Vec::new() }.value(value)?;
            let json = String::from_utf8_lossy(&json);
            log_text::console_inside(self.out, if number { json.trim_matches('"') } else { &json }, false);
        } else if is_time(value) && moment(self.out, value, false) {
        } else {
            let text = shown(value)?;
            let (kept, more) = cut(&text);
            log_text::console_string(self.out, kept);
            if more > 0 {
                self.raw(format!("...({more} more bytes)").as_bytes());
            }
        }
        Ok(())
    }
}

/// What is shown with what is in it, by its own storage: no method of a subclass is called. (A set has no way around
/// them, so a subclass of one is not among these.)
fn is_container(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyDict>()
        || value.is_instance_of::<PyList>()
        || value.is_instance_of::<PyTuple>()
        || value.is_exact_instance_of::<PySet>()
        || value.is_exact_instance_of::<PyFrozenSet>()
}

/// Whether a field is hidden by one of the same name.
fn is_over(
    py: Python<'_>,
    name: &Bound<'_, PyString>,
    over: &[Option<&Fields>],
    call: Option<&Bound<'_, PyDict>>,
) -> PyResult<bool> {
    if let Some(call) = call
        && call.contains(name)?
    {
        return Ok(true);
    }
    let same = |known: &Bound<'_, PyString>| known.is(name) || known.as_any().eq(name).unwrap_or(false);
    Ok(over.iter().flatten().any(|fields| fields.pairs(py).any(|(known, _)| same(known))))
}

fn colour_of(level: &str) -> &'static [u8] {
    match level {
        "debug" => b"2",
        "info" => b"32",
        "warning" => b"33",
        "critical" => b"1;31",
        _ => b"31",
    }
}

/// The beginning of a text that is too long, and how many bytes are left out.
fn cut(text: &str) -> (&str, usize) {
    if text.len() <= LONGEST {
        return (text, 0);
    }
    let end = text.floor_char_boundary(LONGEST);
    (&text[..end], text.len() - end)
}

/// A text that has no UTF-8 (lone surrogates): those are written as `\udc80`.
fn backslashed(text: &Bound<'_, PyString>) -> String {
    let py = text.py();
    let encode = || -> PyResult<String> {
        // `str`'s own method, whatever a subclass says.
        let method = py.get_type::<PyString>().getattr(intern!(py, "encode"))?;
        let bytes = method.call1((text, intern!(py, "utf-8"), intern!(py, "backslashreplace")))?;
        Ok(String::from_utf8_lossy(bytes.cast::<PyBytes>()?.as_bytes()).into_owned())
    };
    encode().unwrap_or_else(|_| "<undecodable>".to_owned())
}

fn utf8(text: &Bound<'_, PyString>) -> String {
    text.to_str().map_or_else(|_| backslashed(text), str::to_owned)
}

fn is_time(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyDate>() || value.is_instance_of::<PyTime>()
}

/// A date, a time or both, as ISO 8601 has them. False: not shown, a time zone's code failed.
fn moment(out: &mut Vec<u8>, value: &Bound<'_, PyAny>, quote: bool) -> bool {
    let quote: &[u8] = if quote { b"\"" } else { b"" };
    if let Ok(moment) = value.cast_exact::<PyDateTime>() {
        let zone = moment.get_tzinfo();
        let utc = match &zone {
            None => Some(&b""[..]),
            Some(zone) => PyTzInfo::utc(value.py()).is_ok_and(|utc| utc.is(zone)).then_some(&b"+00:00"[..]),
        };
        if let Some(utc) = utc {
            out.extend_from_slice(quote);
            log_text::date(out, moment.get_year().into(), moment.get_month().into(), moment.get_day().into());
            out.push(b'T');
            let (hour, minute, second) = (moment.get_hour(), moment.get_minute(), moment.get_second());
            log_text::time(out, hour.into(), minute.into(), second.into(), moment.get_microsecond(), false);
            out.extend_from_slice(utc);
            out.extend_from_slice(quote);
            return true;
        }
    }
    let Ok(iso) = value.call_method0(intern!(value.py(), "isoformat")) else { return false };
    let Ok(iso) = iso.cast::<PyString>() else { return false };
    out.extend_from_slice(quote);
    log_text::json_inside(out, &utf8(iso));
    out.extend_from_slice(quote);
    true
}

/// The text of a value: what `str` says of what is made to be read, `repr` of the rest.
fn shown(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(utf8(text));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(decoded(bytes.as_bytes()));
    }
    if let Ok(bytes) = value.cast::<PyByteArray>() {
        return Ok(decoded(&bytes.to_vec()));
    }
    if value.is_instance_of::<PyBaseException>() {
        return exception(value, 0);
    }
    let text = if reads_well(value) { value.str() } else { value.repr() };
    match text {
        Ok(text) => Ok(utf8(&text)),
        Err(error) => unprintable(value, error),
    }
}

fn decoded(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes[..bytes.len().min(LONGEST + 1)].utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| _ = write!(text, "\\x{byte:02x}"));
    }
    text
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    let name = value.get_type().name();
    name.map_or_else(|_| "object".to_owned(), |name| utf8(&name))
}

/// What stands in for a value whose text cannot be had.
///
/// # Errors
/// What is no `Exception`: nobody may swallow a Ctrl-C.
fn unprintable(value: &Bound<'_, PyAny>, error: PyErr) -> PyResult<String> {
    let py = value.py();
    if !error.is_instance_of::<PyException>(py) {
        return Err(error);
    }
    Ok(format!("<unprintable {}: {}>", type_name(value), type_name(error.value(py))))
}

/// `ValueError: what it says`; a group with what is in it.
fn exception(value: &Bound<'_, PyAny>, depth: usize) -> PyResult<String> {
    let py = value.py();
    let name = type_name(value);
    let text = match value.str() {
        Ok(text) => utf8(&text),
        Err(error) => unprintable(value, error)?,
    };
    let mut shown = if text.is_empty() { name } else { format!("{name}: {text}") };
    if value.is_instance_of::<PyBaseExceptionGroup>()
        && depth < DEEPEST
        && let Ok(inner) = value.getattr(intern!(py, "exceptions"))
        && let Ok(inner) = inner.cast_into::<PyTuple>()
    {
        let mut parts = Vec::new();
        for part in inner.iter().take(DEEPEST) {
            parts.push(exception(&part, depth + 1)?);
        }
        if inner.len() > DEEPEST {
            parts.push("...".to_owned());
        }
        _ = write!(shown, " [{}]", parts.join("; "));
    }
    Ok(shown)
}

/// Whether `str` of it is what one wants to read: a UUID, a path, a decimal, an address, a member of an enum, a class's
/// or function's own repr being no better.
fn reads_well(value: &Bound<'_, PyAny>) -> bool {
    let from = |object: &Bound<'_, PyAny>| -> Option<String> { Some(utf8(&object.get_type().module().ok()?)) };
    let class = value.get_type();
    value.is_instance_of::<PyDelta>()
        || from(value).is_some_and(|module| {
            matches!(module.split('.').next(), Some("uuid" | "decimal" | "fractions" | "pathlib" | "ipaddress"))
        })
        || from(class.as_any()).is_some_and(|module| module == "enum")
}
