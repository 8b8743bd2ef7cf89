//! The program as it is run: its arguments, its configuration, its exit codes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A project of this test alone.
struct Project(PathBuf);

impl Project {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the last run's folder can go");
        }
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
        self
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loopwright-check"));
        command.current_dir(&self.0).args(arguments).env_remove("VIRTUAL_ENV").env("NO_COLOR", "1");
        Run(command.output().expect("the program runs"))
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
}
