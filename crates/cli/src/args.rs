//! The command line: `loopwright run [options] TARGET [args]` and `loopwright check [args]`.
//!
//! Everything after `TARGET` belongs to the program, hyphens included; our own options come before it. Everything after
//! `check` belongs to the analyser, a program of its own.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction};

/// What `loopwright run` wraps while an unmodified program runs. Printed by `--wraps`; the documentation repeats it.
pub const WRAPS: &[(&str, &str)] = &[
    ("asyncio.new_event_loop", "makes the loop that --loop chose; the loop is watched"),
    ("asyncio.Runner.__init__", "a loop factory of the program's own is kept; the loop it makes is watched"),
    ("asyncio.set_event_loop", "a loop made any other way is watched from here on"),
    (
        "loop.create_task's factory",
        "counts tasks and notes the line that created each; calls the program's own factory",
    ),
    ("loop.set_task_factory, get_task_factory", "set and return the program's own factory"),
    ("loop.call_exception_handler", "notes the error, then calls the original, and so the program's own handler"),
    ("loop.run_until_complete, run_forever, close", "tell which task is the main one and when the loop closes"),
    ("warnings.showwarning", "notes coroutines that were never awaited, then calls the original"),
    ("signal.signal", "calls the original, then puts the watchdog's handler in front of the program's again"),
    ("SIGTERM", "a handler that cancels the main task, until the program sets its own"),
    ("SIGTERM and SIGINT, in C", "a note to the watchdog thread, then whatever handler the program has"),
];

/// The subcommand whose arguments are not ours.
const CHECK: &str = "check";

/// A parsed command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `loopwright run`
    Run(Run),
    /// `loopwright check`: the analyser's arguments, as they were given.
    Check(Vec<OsString>),
    /// Nothing to do but print: help, a version, or what is wrong with the arguments.
    Print {
        /// The text.
        text: String,
        /// Whether it goes to standard error.
        to_stderr: bool,
        /// The exit code: 0 for help that was asked for, 2 for an error.
        code: i32,
    },
}

/// Where a report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// As text on standard error.
    Text,
    /// As one line of JSON on standard error.
    Json,
    /// To a file: JSON if its name ends in `.json`, else text.
    File(String),
}

/// The arguments of `loopwright run`.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// `file.py`, `pkg.mod` or `pkg.mod:callable`.
    pub target: String,
    /// The program's own arguments.
    pub args: Vec<String>,
    /// Seconds from the first signal to the end; `None` when not given.
    pub grace: Option<f64>,
    /// `auto`, `asyncio`, `uvloop` or `pkg:factory`.
    pub event_loop: String,
    /// Whether tasks start eagerly.
    pub eager: bool,
    /// Where the report goes; empty for nowhere.
    pub report: Vec<Sink>,
}

/// Parses the arguments after the program's name.
pub fn parse<I, T>(argv: I) -> Command
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let argv: Vec<OsString> = argv.into_iter().map(Into::into).collect();
    if let [first, rest @ ..] = argv.as_slice()
        && first == CHECK
    {
        return Command::Check(rest.to_vec()); // past clap, which would take a `--help` or a `--` for its own
    }
    let full = std::iter::once(OsString::from("loopwright")).chain(argv);
    let matches = match command().try_get_matches_from(full) {
        Ok(matches) => matches,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let code = if asked { 0 } else { 2 };
            return Command::Print { text: error.render().to_string(), to_stderr: !asked, code };
        }
    };
    match matches.subcommand() {
        Some(("run", run)) => parse_run(run),
        _ => unreachable!("clap requires a subcommand"),
    }
}

fn command() -> clap::Command {
    clap::Command::new("loopwright")
        .about("Tools for asyncio services")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(run_command())
        .subcommand(clap::Command::new(CHECK).about("Finds what blocks the event loop, across files and dependencies"))
}

fn run_command() -> clap::Command {
    clap::Command::new("run")
        .about("Runs an asyncio program: bounded shutdown, a watchdog, a health report at the end")
        .override_usage("loopwright run [OPTIONS] TARGET [ARGS]...")
        .after_help(
            "TARGET is file.py, pkg.mod (as python -m pkg.mod) or pkg.mod:callable. What follows it belongs to the \
             program.\nSIGTERM and SIGINT begin the shutdown; a second one, or the end of the grace period, ends the \
             process at once.\nExit codes: the program's own; 130 after SIGINT, 143 after SIGTERM, 1 after an \
             exception, 2 when there is nothing to run.",
        )
        .arg(
            Arg::new("grace")
                .long("grace")
                .value_name("SECONDS")
                .value_parser(seconds)
                .help("Time from the first signal to the end of the process [default: 10]"),
        )
        .arg(
            Arg::new("loop")
                .long("loop")
                .value_name("LOOP")
                .default_value("auto")
                .value_parser(event_loop)
                .help("auto (uvloop when installed), asyncio, uvloop, or pkg:factory"),
        )
        .arg(Arg::new("eager").long("eager").action(ArgAction::SetTrue).help("Start tasks eagerly (Python 3.12+)"))
        .arg(
            Arg::new("report")
                .long("report")
                .value_name("REPORT")
                .action(ArgAction::Append)
                .help("text or json (to stderr), FILE (JSON if it ends in .json), or off; repeatable [default: text]"),
        )
        .arg(
            Arg::new("wraps")
                .long("wraps")
                .action(ArgAction::SetTrue)
                .help("Print what is wrapped while the program runs, and exit"),
        )
        .arg(
            Arg::new("target")
                .value_name("TARGET [ARGS]")
                .num_args(1..)
                .trailing_var_arg(true)
                .allow_hyphen_values(true)
                .required_unless_present("wraps")
                .hide(true),
        )
}

fn parse_run(matches: &clap::ArgMatches) -> Command {
    if matches.get_flag("wraps") {
        return Command::Print { text: wraps(), to_stderr: false, code: 0 };
    }
    let mut words = matches.get_many::<String>("target").into_iter().flatten().cloned();
    let target = words.next().unwrap_or_default();
    if target.starts_with('-') {
        return usage(format!("unknown option '{target}'; options of the program itself go after TARGET"));
    }
    if target.is_empty() {
        return usage("TARGET is empty".to_owned());
    }
    let mut report = Vec::new();
    let mut off = false;
    for word in matches.get_many::<String>("report").into_iter().flatten() {
        match word.as_str() {
            "text" => report.push(Sink::Text),
            "json" => report.push(Sink::Json),
            "off" => off = true,
            "" => return usage("--report needs text, json, off or the name of a file".to_owned()),
            path => report.push(Sink::File(path.to_owned())),
        }
    }
    if off && !report.is_empty() {
        return usage("--report off excludes every other --report".to_owned());
    }
    if report.is_empty() && !off {
        report.push(Sink::Text);
    }
    Command::Run(Run {
        target,
        args: words.collect(),
        grace: matches.get_one::<f64>("grace").copied(),
        event_loop: matches.get_one::<String>("loop").cloned().unwrap_or_default(),
        eager: matches.get_flag("eager"),
        report,
    })
}

fn usage(problem: String) -> Command {
    let text = format!("error: {problem}\n\nUsage: loopwright run [OPTIONS] TARGET [ARGS]...\n");
    Command::Print { text, to_stderr: true, code: 2 }
}

fn wraps() -> String {
    let width = WRAPS.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    WRAPS.iter().map(|(name, what)| format!("{name:width$}  {what}\n")).collect()
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("a number of seconds above 0 is needed".to_owned()),
    }
}

fn event_loop(text: &str) -> Result<String, String> {
    let known = matches!(text, "auto" | "asyncio" | "uvloop");
    let factory = text.split_once(':').is_some_and(|(module, name)| !module.is_empty() && !name.is_empty());
    if known || factory {
        Ok(text.to_owned())
    } else {
        Err("auto, asyncio, uvloop or pkg.mod:factory is needed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Run {
        match parse(words.iter().copied()) {
            Command::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    fn error(words: &[&str]) -> String {
        match parse(words.iter().copied()) {
            Command::Print { text, to_stderr: true, code: 2 } => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_the_target_belongs_to_the_program() {
        let parsed = run(&["run", "--grace", "2.5", "app.py", "--grace", "9", "--", "-x", "--help"]);
        assert_eq!(parsed.grace, Some(2.5));
        assert_eq!(parsed.target, "app.py");
        assert_eq!(parsed.args, ["--grace", "9", "--", "-x", "--help"]);
    }

    #[test]
    fn the_arguments_of_check_are_not_touched() {
        for words in [&["--help"][..], &["--", "-x"], &[], &["src/", "--", "run"]] {
            let argv = ["check"].iter().chain(words);
            assert_eq!(parse(argv), Command::Check(words.iter().map(OsString::from).collect()));
        }
    }

    #[test]
    fn defaults() {
        let parsed = run(&["run", "pkg.mod:main"]);
        assert_eq!(parsed.grace, None);
        assert_eq!(parsed.event_loop, "auto");
        assert!(!parsed.eager);
        assert_eq!(parsed.report, [Sink::Text]);
    }

    #[test]
    fn reports_add_up_and_off_stands_alone() {
        let parsed = run(&["run", "--report", "json", "--report=out.txt", "a.py"]);
        assert_eq!(parsed.report, [Sink::Json, Sink::File("out.txt".to_owned())]);
        assert_eq!(run(&["run", "--report", "off", "a.py"]).report, []);
        assert!(error(&["run", "--report", "off", "--report", "text", "a.py"]).contains("excludes"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(error(&["run"]).contains("TARGET"));
        assert!(error(&["run", "--nope", "a.py"]).contains("'--nope'"));
        for bad in ["0", "-1", "nan", "inf", "soon"] {
            assert!(error(&["run", &format!("--grace={bad}"), "a.py"]).contains("above 0"), "{bad}");
        }
        assert!(error(&["run", "--loop", "trio", "a.py"]).contains("pkg.mod:factory"));
        assert!(error(&["fly"]).contains("fly"));
        assert!(error(&[]).contains("Usage"));
    }

    #[test]
    fn help_version_and_wraps_go_to_stdout() {
        for words in [&["--help"][..], &["--version"], &["run", "--help"], &["run", "--wraps"]] {
            match parse(words.iter().copied()) {
                Command::Print { to_stderr: false, code: 0, text } => assert!(!text.is_empty()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn help_lists_every_command() {
        match parse(["--help"]) {
            Command::Print { text, .. } => assert!(text.contains("  run ") && text.contains("  check "), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
