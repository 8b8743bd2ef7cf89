//! The program as it is run: its arguments, its configuration, its exit codes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// What one file is enough for: LW509, twice.
const FOUND: &str = "\
import os


def remove(name):
    os.system('rm ' + repr(name))


def show(name):
    os.system('cat ' + repr(name))
";

/// A project of this test alone.
struct Project(PathBuf);

impl Project {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the last run's folder can go");
        }
        fs::create_dir_all(&folder).expect("a folder");
        let project = Self(folder);
        // The configuration of the repository around it is none of its business.
        project.file("pyproject.toml", "[tool.loopwright.check]\n");
        project
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopwright-check"));
        command.current_dir(&self.0).args(arguments).env_remove("VIRTUAL_ENV").env("NO_COLOR", "1");
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run(self.command(arguments).output().expect("the program runs"))
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("a file")
    }

    /// The lines of what is found.
    fn lines(&self, arguments: &[&str]) -> Vec<u64> {
        let run = self.run(&[arguments, &["--format", "json"]].concat());
        let document: Value = serde_json::from_str(&run.out()).unwrap_or_else(|_| panic!("{}", run.err()));
        let findings = document["findings"].as_array().expect("a list");
        findings.iter().map(|finding| finding["line"].as_u64().expect("a line")).collect()
    }

    fn git(&self, arguments: &[&str]) {
        let who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"];
        let output = Command::new("git").current_dir(&self.0).args(who).args(arguments).output().expect("git");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

struct Run(Output);

impl Run {
    fn code(&self) -> i32 {
        self.0.status.code().expect("it was not killed")
    }

    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).expect("UTF-8")
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).expect("UTF-8")
    }
}

#[test]
fn usage_that_is_wrong_ends_with_2() {
    let project = Project::new("usage");
    project.file("a.py", "x = 1\n");
    for (arguments, said) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--format", "yaml"], "yaml"),
        (&["--select", "E501"], "`E501` is neither a rule nor the beginning of one"),
        (&["nowhere.py"], "nothing to check: nowhere.py does not exist"),
        (&["rule", "LW999"], "there is no rule `LW999`"),
        (&["--baseline", "none.json"], "the baseline"),
        (&["--write-baseline"], "--write-baseline needs --baseline FILE"),
        (&["--python-version", "three"], "a version is written like 3.12"),
    ] {
        let run = project.run(arguments);
        assert_eq!(run.code(), 2, "{arguments:?}\n{}", run.err());
        assert!(run.err().contains(said), "{arguments:?}\n{}", run.err());
        assert_eq!(run.out(), "", "{arguments:?}");
    }
}

#[test]
fn a_clean_tree_ends_with_0() {
    let project = Project::new("clean-tree");
    project.file("pkg/__init__.py", "").file("pkg/a.py", "async def f():\n    return 1\n");
    let run = project.run(&["pkg"]);
    assert_eq!((run.code(), run.err().as_str()), (0, ""));
    assert!(run.out().contains("Nothing found in 2 files"), "{}", run.out());
}

#[test]
fn help_and_version_end_with_0() {
    let project = Project::new("help");
    for arguments in [&["--help"][..], &["--version"], &["rules", "--format", "json"]] {
        let run = project.run(arguments);
        assert_eq!(run.code(), 0, "{arguments:?}");
        assert_ne!(run.out(), "", "{arguments:?}");
    }
}

#[test]
fn json_is_one_document() {
    let project = Project::new("json");
    project.file("a.py", "x = 1\n");
    let run = project.run(&["--format", "json"]);
    let document: Value = serde_json::from_str(&run.out()).expect("JSON");
    assert_eq!(document["version"], 1);
    assert_eq!(document["summary"]["files"], 1);
    assert!(document["findings"].is_array() && document["notes"].is_array());
}

#[test]
fn a_path_that_is_missing_beside_one_that_is_there_is_a_note() {
    let project = Project::new("missing");
    project.file("a.py", "x = 1\n");
    let run = project.run(&["a.py", "b.py"]);
    assert_eq!(run.code(), 0);
    assert!(run.out().contains("note: b.py does not exist"), "{}", run.out());
}

#[test]
fn configuration_that_is_wrong_names_file_key_and_remedy() {
    let project = Project::new("configuration");
    project.file("a.py", "x = 1\n");
    for (text, said) in [
        ("selct = [\"LW1\"]", "pyproject.toml: `selct`: no such key; did you mean `select`?"),
        ("nonsense = 1", "`nonsense`: no such key; there are all, baseline,"),
        ("select = \"LW1\"", "`select`: write a list of strings here, not a string"),
        ("select = [\"E501\"]", "`select`: `E501` is neither a rule nor the beginning of one"),
        ("all = 1", "`all`: write true or false here, not a number"),
        ("exclude = [\"[\"]", "`exclude`: not a glob"),
        ("roots = [\"a\"]\nsrc = [\"b\"]", "the same as `roots`"),
        ("python-version = 3.12", "`python-version`: write a version such as \"3.12\" here, not a number"),
        ("blocks = 3", "`blocks`: write a list of tables (`[[...]]`) here, not a number"),
        ("select = [", "pyproject.toml: not TOML"),
    ] {
        project.file("pyproject.toml", &format!("[tool.loopwright.check]\n{text}\n"));
        let run = project.run(&[]);
        assert_eq!(run.code(), 2, "{text}\n{}", run.out());
        assert!(run.err().contains(said), "{text}\n{}", run.err());
    }
}

#[test]
fn loopwright_toml_counts_before_pyproject_toml() {
    let project = Project::new("own-file");
    project.file("a.py", "x = 1\n").file("pyproject.toml", "[tool.loopwright.check]\nselct = 1\n");
    project.file("loopwright.toml", "[check]\nall = true\n");
    assert_eq!(project.run(&[]).code(), 0);
}

#[test]
fn a_report_can_go_to_a_file() {
    let project = Project::new("output-file");
    project.file("a.py", "x = 1\n");
    let run = project.run(&["--format", "gitlab", "--output-file", "report.json"]);
    assert_eq!((run.code(), run.out().as_str()), (0, ""));
    assert_eq!(fs::read_to_string(project.0.join("report.json")).expect("a report").trim(), "[]");
}

#[test]
fn clean_removes_the_cache() {
    let project = Project::new("clean");
    project.file("pyproject.toml", "").file(".loopwright_cache/x", "");
    assert_eq!(project.run(&["clean"]).out(), "Removed .loopwright_cache.\n");
    assert!(!project.0.join(".loopwright_cache").exists());
    assert_eq!(project.run(&["clean"]).out(), "There is no .loopwright_cache.\n");
    project.file("precious/a.py", "x = 1\n");
    assert_eq!(project.run(&["clean", "--cache-dir", "precious"]).code(), 2);
    assert_eq!(project.text("precious/a.py"), "x = 1\n");
}

#[test]
fn what_is_found_ends_with_1() {
    let project = Project::new("found");
    project.file("a.py", FOUND);
    assert_eq!(project.run(&[]).code(), 1);
    assert_eq!(project.run(&["--exit-zero"]).code(), 0);
    assert_eq!(project.run(&["--ignore", "LW509"]).code(), 0);
    assert_eq!(project.run(&["--quiet", "--format", "concise"]).out().lines().count(), 2);
    assert!(project.run(&["--statistics"]).out().starts_with("2  LW509  [*]  repr-as-quoting"));
    let counted: Value = serde_json::from_str(&project.run(&["--statistics", "--format", "json"]).out()).expect("JSON");
    assert_eq!(counted[0]["count"], 2);
}

#[test]
fn comments_and_files_excuse() {
    let project = Project::new("excused");
    project.file("a.py", &FOUND.replace("('rm ' + repr(name))", "('rm ' + repr(name))  # noqa: LW509"));
    assert_eq!(project.lines(&[]), [9]);
    project.file("pyproject.toml", "[tool.loopwright.check]\nper-file-ignores = { \"a.py\" = [\"LW5\"] }\n");
    assert_eq!(project.lines(&[]), [] as [u64; 0]);
}

/// A helper that blocks, and coroutines that reach it through `middle` and on their own.
fn chain(middle: &str, more: &str) -> Vec<u64> {
    let project = Project::new("chain");
    project.file("helper.py", "import time\n\n\ndef wait():\n    time.sleep(1)\n");
    let two = "async def one():\n    middle()\n\n\nasync def two():\n    middle()\n";
    project.file("app.py", &format!("from helper import wait\n\n\ndef middle():\n    wait(){middle}\n\n\n{two}{more}"));
    project.lines(&["--all", "--select", "LW101", "--no-cache"])
}

#[test]
fn a_comment_on_the_chain_excuses_what_passes_there() {
    assert_eq!(chain("", ""), [5]);
    assert_eq!(chain("  # noqa: LW101", ""), [] as [u64; 0]);
    assert_eq!(chain("  # noqa: LW101", "\n\nasync def three():\n    wait()\n"), [5], "another way is left");
}

#[test]
fn fixes_are_printed_or_applied() {
    let project = Project::new("fixes");
    project.file("a.py", FOUND);
    let dry = project.run(&["--fix", "--dry-run", "--unsafe-fixes"]);
    assert_eq!(dry.code(), 1);
    assert!(dry.out().contains("+    os.system('rm ' + shlex.quote(name))\n"), "{}", dry.out());
    assert!(dry.out().contains("+import shlex\n"), "{}", dry.out());
    assert_eq!(project.run(&["--diff-fixes", "--unsafe-fixes"]).out(), dry.out());
    assert_eq!(project.text("a.py"), FOUND);

    assert_eq!(project.run(&["--fix"]).code(), 1, "no safe one");
    assert_eq!(project.text("a.py"), FOUND);

    let run = project.run(&["--fix", "--unsafe-fixes"]);
    assert_eq!(run.code(), 0, "{}", run.out());
    assert!(run.out().starts_with("Fixed 2 findings:\n  a.py\n    5: LW509 "), "{}", run.out());
    let fixed = FOUND.replace("repr", "shlex.quote").replace("import os\n", "import os\nimport shlex\n");
    assert_eq!(project.text("a.py"), fixed);
    assert_eq!(project.run(&["--diff-fixes", "--unsafe-fixes"]).code(), 0);
}

#[test]
fn a_baseline_is_written_and_left_out() {
    let project = Project::new("baseline");
    project.file("pyproject.toml", "[tool.loopwright.check]\nbaseline = \"baseline.json\"\n").file("a.py", FOUND);
    assert_eq!(project.run(&[]).code(), 2, "it is not there yet");
    let written = project.run(&["--write-baseline"]);
    assert_eq!((written.code(), written.out().as_str()), (0, "Wrote 2 findings to baseline.json.\n"));
    assert_eq!(project.run(&[]).code(), 0);
    project.file("a.py", &format!("# moved\n{FOUND}    os.system('ls ' + repr(name))\n"));
    assert_eq!(project.lines(&[]), [11]);
    project.file("a.py", "x = 1\n");
    let run = project.run(&[]);
    assert_eq!(run.code(), 0);
    assert!(run.out().contains("note: 2 findings of baseline.json no longer found"), "{}", run.out());
}

#[test]
fn only_what_a_change_has_brought() {
    let project = Project::new("diff");
    project.git(&["init", "--quiet"]);
    project.file("src/a.py", FOUND);
    project.git(&["add", "--all"]);
    project.git(&["commit", "--quiet", "--message", "first"]);
    assert_eq!(project.lines(&["--diff", "HEAD"]), [] as [u64; 0]);
    // Moved, and not changed.
    project.file("src/a.py", &format!("# moved\n{FOUND}"));
    assert_eq!(project.lines(&["--diff", "HEAD"]), [] as [u64; 0]);
    // A changed line, and a file that git does not know.
    project.file("src/a.py", &format!("# moved\n{}", FOUND.replace("'cat '", "'cat -n '")));
    assert_eq!(project.lines(&["--diff", "HEAD"]), [10]);
    project.file("src/b.py", FOUND);
    assert_eq!(project.lines(&["--diff", "HEAD"]), [10, 5, 9]);
    // From a folder of the repository.
    let inside = Project(project.0.join("src"));
    assert_eq!(inside.lines(&["--diff", "HEAD", "a.py"]), [10]);
    let run = project.run(&["--diff", "nonsense"]);
    assert_eq!(run.code(), 2);
    assert!(run.err().contains("--diff: `nonsense` is no commit of"), "{}", run.err());
}

#[test]
fn graph_explains_a_function() {
    let project = Project::new("graph");
    project.file("a.py", "async def work():\n    return 1\n");
    let run = project.run(&["graph", "nowhere"]);
    assert_eq!((run.code(), run.out().as_str()), (2, ""));
    assert!(run.err().contains("nowhere"), "{}", run.err());
}

#[test]
fn a_changed_file_is_checked_again() {
    let project = Project::new("watch");
    project.file("a.py", FOUND);
    let mut command = project.command(&["--watch", "--format", "concise", "--no-cache"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program runs");
    let pipe = BufReader::new(child.stdout.take().expect("a pipe"));
    let (send, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || pipe.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    let mut seen = vec![];
    // A line that does not come is a failure, not a test that never ends.
    while let Ok(line) = lines.recv_timeout(Duration::from_secs(60)) {
        if line.starts_with("Found 2 roots") {
            project.file("a.py", &FOUND.replace("'rm ' + repr(name)", "'rm'"));
        }
        let went = line.starts_with("went a.py:5 LW509");
        seen.push(line);
        if went {
            break;
        }
    }
    child.kill().expect("it still runs");
    child.wait().expect("it ends");
    drop(lines);
    reader.join().expect("it reads to the end").unwrap_or_default();
    assert!(seen.iter().any(|line| line.starts_with("Found 1 root")), "{seen:?}");
    assert!(seen.last().is_some_and(|line| line.starts_with("went")), "{seen:?}");
}
