//! The health report: what a program left behind, as data, as JSON and as text.
//!
//! Sections arrive one by one ([`Report::put`]) so that the report can be written at any moment, whole or not, by a
//! thread that may not touch Python. Times are seconds; `at` counts from the start.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The whole report. The fields are the JSON document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of this document's shape.
    pub schema: u32,
    /// What was run, and on what.
    pub program: Program,
    /// Seconds from the start to now.
    pub uptime: f64,
    /// How it ended.
    pub exit: Exit,
    /// Signals that arrived, in order.
    pub signals: Vec<Signal>,
    /// Phases, in order, with the time each began.
    pub phases: Vec<Phase>,
    /// Tasks.
    pub tasks: Tasks,
    /// Exceptions nobody retrieved, and others that reached the loop's exception handler.
    pub lost_exceptions: Counted<Lost>,
    /// Coroutines, and our own operations, that nobody awaited.
    pub never_awaited: Counted<NeverAwaited>,
    /// Tasks that were cancelled and carried on.
    pub swallowed_cancels: Counted<TaskSite>,
    /// How the loop fared.
    #[serde(rename = "loop")]
    pub event_loop: LoopHealth,
    /// The process.
    pub process: Process,
    /// Every Python thread's stack when the process was ended by force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stacks: Option<String>,
}

/// What was run, and on what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// The target as given, or the name of the function.
    pub target: String,
    /// Process id.
    pub pid: u32,
    /// Version of Loopwright.
    pub loopwright: String,
    /// Version of Python.
    pub python: String,
    /// Class of the last event loop watched.
    #[serde(rename = "loop")]
    pub event_loop: Option<String>,
    /// Whether tasks were started eagerly.
    pub eager: bool,
    /// Seconds from the first signal to the end.
    pub grace: f64,
}

/// How it ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// Exit code.
    pub code: Option<i32>,
    /// `finished`, `SIGTERM`, `exception ValueError` …
    pub reason: String,
    /// `grace` or `second signal` when the watchdog ended the process.
    pub forced: Option<String>,
}

/// A signal that arrived.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// `SIGTERM`
    pub name: String,
    /// When.
    pub at: f64,
    /// Whether the process sent it to itself; such a signal never forces.
    pub from_self: bool,
}

/// A phase of the run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `run`, `stop accepting`, `drain`, `cancel`, `close`, `end`, `forced`
    pub name: String,
    /// When it began.
    pub at: f64,
}

/// Tasks of all loops watched.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tasks {
    /// Tasks started; `None` where they are not counted.
    pub started: Option<u64>,
    /// Tasks alive when the main one had ended, or when the process was ended by force.
    pub left_over: u64,
    /// The left-over ones, grouped by the line that created them.
    pub sites: Vec<TaskSite>,
    /// Whether `left_over` could be read: not when a C call held the interpreter to the end.
    pub unreadable: bool,
}

/// Tasks created by one line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSite {
    /// `file.py:12 in serve`, the line that created them.
    pub created: Option<String>,
    /// How many.
    pub count: u64,
    /// Name of one of them.
    pub name: String,
    /// Where that one waits.
    pub waiting_at: Option<String>,
}

/// A count, and the first of what was counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted<T> {
    /// How many there were.
    pub count: u64,
    /// The first of them.
    pub items: Vec<T>,
}

impl<T> Default for Counted<T> {
    fn default() -> Self {
        Self { count: 0, items: Vec::new() }
    }
}

/// An exception nobody retrieved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    /// asyncio's own words.
    pub message: String,
    /// `ValueError: …`
    pub exception: Option<String>,
    /// Innermost line of its traceback.
    pub raised: Option<String>,
    /// Name of the task.
    pub task: Option<String>,
    /// The line that created the task.
    pub created: Option<String>,
}

/// Something that should have been awaited.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NeverAwaited {
    /// Name of the coroutine function or of the operation.
    pub what: String,
    /// Where it was dropped: nearly always the line that called it.
    pub dropped: String,
    /// How many.
    pub count: u64,
}

/// How the loop fared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoopHealth {
    /// Worst delay of the heartbeat; `None` where there was none.
    pub worst_lag: Option<f64>,
    /// How often the delay exceeded `threshold`.
    pub stalls: u64,
    /// What counts as a stall.
    pub threshold: f64,
    /// Who held the loop, worst first.
    pub culprits: Vec<Culprit>,
}

/// A stack that held the loop.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Culprit {
    /// How long the loop had not turned, at the last look.
    pub lag: f64,
    /// When.
    pub at: f64,
    /// `file.py:12 in parse`, innermost first.
    pub stack: Vec<String>,
}

/// The process at the end. `None` where the system does not tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Resident memory, bytes.
    pub rss: Option<u64>,
    /// Its peak, bytes.
    pub peak_rss: Option<u64>,
    /// Open file descriptors.
    pub file_descriptors: Option<u64>,
    /// Threads of the system, ours included.
    pub threads: Option<u64>,
    /// Child processes still running.
    pub children: Vec<Child>,
}

/// A child process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// Process id.
    pub pid: u32,
    /// Command line.
    pub command: String,
}

impl Report {
    /// Replaces one section, given as JSON.
    ///
    /// # Errors
    /// When there is no such section or its JSON has another shape.
    pub fn put(&mut self, section: &str, json: &str) -> Result<(), String> {
        fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, String> {
            serde_json::from_str(json).map_err(|error| error.to_string())
        }
        match section {
            "program" => self.program = read(json)?,
            "exit" => self.exit = read(json)?,
            "tasks" => self.tasks = read(json)?,
            "lost_exceptions" => self.lost_exceptions = read(json)?,
            "never_awaited" => self.never_awaited = read(json)?,
            "swallowed_cancels" => self.swallowed_cancels = read(json)?,
            _ => return Err(format!("no section {section:?}")),
        }
        Ok(())
    }

    /// The report as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// The report as indented JSON.
    pub fn to_json_pretty(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }

    /// The report as text for people.
    pub fn to_text(&self) -> String {
        let mut out = Text::default();
        let how = match (&self.exit.forced, self.exit.reason.as_str()) {
            (Some(why), _) => format!("ended by force ({why})"),
            (None, "") => "running".to_owned(),
            (None, reason) => reason.to_owned(),
        };
        let code = self.exit.code.map_or_else(String::new, |code| format!(", exit code {code}"));
        out.head(&format!("loopwright: {}: {how}{code}, up {}", self.program.target, seconds(self.uptime)));

        let phases: Vec<_> = self.timeline().iter().map(|(at, name)| format!("{} {name}", seconds(*at))).collect();
        out.row("phases", &phases.join(" > "));

        let tasks = match (self.tasks.started, self.tasks.unreadable) {
            (_, true) => "left over: not readable, a C call held the interpreter".to_owned(),
            (Some(started), _) => format!("{started} started, {} left over", self.tasks.left_over),
            (None, _) => format!("{} left over", self.tasks.left_over),
        };
        out.row("tasks", &tasks);
        self.tasks.sites.iter().for_each(|site| out.item(&task_site(site)));

        out.row("lost exceptions", &self.lost_exceptions.count.to_string());
        for lost in &self.lost_exceptions.items {
            let mut line = lost.exception.clone().unwrap_or_else(|| lost.message.clone());
            lost.raised.iter().for_each(|place| _ = write!(line, ", raised at {place}"));
            lost.task.iter().for_each(|task| _ = write!(line, ", in task {task}"));
            lost.created.iter().for_each(|place| _ = write!(line, " created at {place}"));
            out.item(&line);
        }
        out.row("never awaited", &self.never_awaited.count.to_string());
        for item in &self.never_awaited.items {
            out.item(&format!("{} x {}, dropped at {}", item.count, item.what, item.dropped));
        }
        out.row("swallowed cancels", &self.swallowed_cancels.count.to_string());
        self.swallowed_cancels.items.iter().for_each(|site| out.item(&task_site(site)));

        if let Some(worst) = self.event_loop.worst_lag {
            let LoopHealth { stalls, threshold, .. } = self.event_loop;
            out.row("loop lag", &format!("worst {}, {stalls} above {}", seconds(worst), seconds(threshold)));
            for culprit in &self.event_loop.culprits {
                out.item(&format!(
                    "{} at {}: {}",
                    seconds(culprit.lag),
                    seconds(culprit.at),
                    culprit.stack.join(" < ")
                ));
            }
        }
        let process = &self.process;
        out.row(
            "process",
            &format!(
                "{} resident (peak {}), {} file descriptors, {} threads",
                mebibytes(process.rss),
                mebibytes(process.peak_rss),
                number(process.file_descriptors),
                number(process.threads)
            ),
        );
        for child in &process.children {
            out.item(&format!("child {} still runs: {}", child.pid, child.command));
        }
        let Program { pid, loopwright, python, event_loop, eager, grace, .. } = &self.program;
        let name = event_loop.as_deref().unwrap_or("no event loop");
        let eager = if *eager { ", eager tasks" } else { "" };
        out.row(
            "on",
            &format!("{name}{eager}, Python {python}, loopwright {loopwright}, pid {pid}, grace {}", seconds(*grace)),
        );
        if let Some(stacks) = &self.stacks {
            out.head("stacks of every Python thread, innermost call first:");
            out.0.push_str(stacks);
            if !stacks.ends_with('\n') {
                out.0.push('\n');
            }
        }
        out.0
    }

    /// Phases and signals in one order.
    fn timeline(&self) -> Vec<(f64, &str)> {
        let mut all: Vec<_> = self.phases.iter().map(|phase| (phase.at, phase.name.as_str())).collect();
        all.extend(self.signals.iter().map(|signal| (signal.at, signal.name.as_str())));
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    }
}

/// Lines of the text form.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, text: &str) {
        _ = writeln!(self.0, "{text}");
    }

    fn row(&mut self, name: &str, text: &str) {
        _ = writeln!(self.0, "  {name:<18}{text}");
    }

    fn item(&mut self, text: &str) {
        _ = writeln!(self.0, "  {:<18}  {text}", "");
    }
}

fn task_site(site: &TaskSite) -> String {
    let TaskSite { created, count, name, waiting_at } = site;
    let created = created.as_deref().unwrap_or("an unknown line");
    let waiting = waiting_at.as_deref().map_or_else(String::new, |place| format!(", waiting at {place}"));
    format!("{count} x created at {created} ({name}{waiting})")
}

fn seconds(value: f64) -> String {
    if value < 100.0 { format!("{value:.2} s") } else { format!("{value:.0} s") }
}

fn mebibytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0))
}

fn number(value: Option<u64>) -> String {
    value.map_or_else(|| "?".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        let mut report = Report { schema: 1, uptime: 12.5, ..Report::default() };
        report.put("program", r#"{"target": "app.py", "pid": 7, "loop": "uvloop.Loop", "grace": 10}"#).unwrap();
        report.put("exit", r#"{"code": 143, "reason": "SIGTERM"}"#).unwrap();
        report
            .put(
                "tasks",
                r#"{"started": 9, "left_over": 2, "sites": [{"created": "app.py:3 in f", "count": 2, "name": "w"}]}"#,
            )
            .unwrap();
        report.phases.push(Phase { name: "cancel".to_owned(), at: 10.0 });
        report.signals.push(Signal { name: "SIGTERM".to_owned(), at: 9.99, from_self: false });
        report
    }

    #[test]
    fn text_names_what_happened() {
        let text = sample().to_text();
        assert!(text.starts_with("loopwright: app.py: SIGTERM, exit code 143, up 12.50 s\n"), "{text}");
        assert!(text.contains("9.99 s SIGTERM > 10.00 s cancel"), "{text}");
        assert!(text.contains("9 started, 2 left over"), "{text}");
        assert!(text.contains("2 x created at app.py:3 in f (w)"), "{text}");
    }

    #[test]
    fn json_survives_a_round_trip() {
        let report = sample();
        assert!(!report.to_json().contains('\n'));
        assert_eq!(serde_json::from_str::<Report>(&report.to_json()).unwrap(), report);
        assert_eq!(serde_json::from_str::<Report>(&report.to_json_pretty()).unwrap(), report);
    }

    #[test]
    fn a_wrong_section_is_refused() {
        let mut report = sample();
        assert!(report.put("nope", "{}").unwrap_err().contains("nope"));
        assert!(report.put("tasks", "3").is_err());
        assert_eq!(report, sample());
    }
}
