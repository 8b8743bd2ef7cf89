//! The command line, for Python: arguments in, a tuple that says what to do out.

use loopwright_cli::args::{self, Command, Sink};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// Parses the arguments of `loopwright` into what to do and its fields: `("print", {text, to_stderr, code})`,
/// `("run", {…})` or `("check", {arguments})`.
#[pyfunction]
pub fn _parse_args(py: Python<'_>, argv: Vec<std::ffi::OsString>) -> PyResult<(&'static str, Bound<'_, PyDict>)> {
    let fields = PyDict::new(py);
    match args::parse(argv) {
        Command::Print { text, to_stderr, code } => {
            fields.set_item("text", text)?;
            fields.set_item("to_stderr", to_stderr)?;
            fields.set_item("code", code)?;
            Ok(("print", fields))
        }
        Command::Check(arguments) => {
            fields.set_item("arguments", arguments)?;
            Ok(("check", fields))
        }
        Command::Run(run) => {
            let report = run.report.into_iter().map(|sink| match sink {
                Sink::Text => "text".to_owned(),
                Sink::Json => "json".to_owned(),
                Sink::File(path) => path,
            });
            fields.set_item("target", run.target)?;
            fields.set_item("args", run.args)?;
            fields.set_item("grace", run.grace)?;
            fields.set_item("loop", run.event_loop)?;
            fields.set_item("eager", run.eager)?;
            fields.set_item("report", report.collect::<Vec<_>>())?;
            Ok(("run", fields))
        }
    }
}

/// What `loopwright run` wraps: `(name, what for)`.
#[pyfunction]
pub fn _wraps() -> Vec<(&'static str, &'static str)> {
    args::WRAPS.to_vec()
}
