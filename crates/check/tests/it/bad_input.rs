//! What real trees have in them: files that are none, links that loop, packages that are half there. Each is one clear
//! line, and the rest is checked all the same.

use std::path::{Path, PathBuf};

use loopwright_check::analyse;
use loopwright_check::options::{Analysis, Options};
use loopwright_check::progress::Silent;

const BLOCKS: &str = "import time\n\n\nclass Client:\n    def get(self):\n        time.sleep(1)\n\n\nasync def main():\n    Client().get()\n";

/// A folder of its own for a test, with these files.
fn tree(test: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad_input").join(test);
    let _ = std::fs::remove_dir_all(&root);
    for (name, text) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::fs::create_dir_all(root.join("no-packages")).unwrap();
    std::fs::canonicalize(root).unwrap()
}

fn options(root: &Path) -> Options {
    Options {
        paths: vec![root.to_owned()],
        project: root.to_owned(),
        site_packages: vec![root.join("no-packages")],
        threads: Some(1),
        ..Options::default()
    }
}

fn checked(root: &Path) -> Analysis {
    analyse(&options(root), &Silent).unwrap()
}

fn notes(analysis: &Analysis) -> String {
    analysis.notes.iter().map(|note| format!("{}: {}\n", note.path.as_deref().unwrap_or("-"), note.text)).collect()
}

/// The qualified name of the function that blocks shows which module ty took the file for.
fn blocking(analysis: &Analysis) -> Vec<&str> {
    let mut names: Vec<_> = analysis.program.project.iter().map(|key| &*analysis.program.functions[key].qual).collect();
    names.retain(|name| name.ends_with(".get"));
    names
}

#[test]
fn a_syntax_error_is_told_with_its_line_and_the_rest_is_checked() {
    let text = format!("{BLOCKS}\ndef broken(:\n    pass\n");
    let root = tree("syntax", &[("bad.py", text.as_bytes()), ("good.py", BLOCKS.as_bytes())]);
    let analysis = checked(&root);
    assert!(notes(&analysis).contains("bad.py: line 12: "), "{}", notes(&analysis));
    assert_eq!(blocking(&analysis), ["bad.Client.get", "good.Client.get"]);
}

#[test]
fn python_2_is_called_by_its_name() {
    let root = tree("python2", &[("old.py", b"def f():\n    print \"x\"\n")]);
    assert!(notes(&checked(&root)).contains("it looks like Python 2"));
}

#[test]
fn a_file_that_is_not_utf_8_is_told() {
    let root = tree("latin", &[("latin.py", b"name = '\xe9\xff'\n"), ("good.py", BLOCKS.as_bytes())]);
    let analysis = checked(&root);
    assert!(notes(&analysis).contains("latin.py: cannot be read"), "{}", notes(&analysis));
    assert_eq!(blocking(&analysis), ["good.Client.get"]);
}

#[test]
fn a_huge_file_is_left_out() {
    let huge = format!("DATA = [\n{}]\n", "    1234567890,\n".repeat(300_000));
    let root = tree("huge", &[("data.py", huge.as_bytes()), ("good.py", BLOCKS.as_bytes())]);
    let analysis = checked(&root);
    assert!(notes(&analysis).contains("data.py: left out"), "{}", notes(&analysis));
    assert_eq!(blocking(&analysis), ["good.Client.get"]);
}

#[test]
fn the_cells_of_a_notebook_are_one_module() {
    let cell = |text: &str| serde_json::json!({"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": null, "source": text, "id": "x"});
    let notebook = serde_json::json!({"cells": [cell(BLOCKS)], "metadata": {}, "nbformat": 4, "nbformat_minor": 5});
    let root = tree("notebook", &[("book.ipynb", notebook.to_string().as_bytes())]);
    let analysis = checked(&root);
    assert_eq!(analysis.files.len(), 1);
    assert_eq!(blocking(&analysis).len(), 1, "{}", notes(&analysis));
}

#[cfg(unix)]
#[test]
fn links_that_loop_are_not_walked() {
    let root = tree("links", &[("pkg/__init__.py", b""), ("pkg/mod.py", BLOCKS.as_bytes())]);
    std::os::unix::fs::symlink(&root, root.join("pkg/again")).unwrap();
    std::os::unix::fs::symlink("self", root.join("self")).unwrap();
    let analysis = checked(&root);
    assert_eq!(analysis.files.len(), 2);
    assert_eq!(blocking(&analysis), ["pkg.mod.Client.get"]);
}

#[test]
fn a_missing_environment_is_told_and_the_project_is_checked() {
    let root = tree("environment", &[("good.py", BLOCKS.as_bytes())]);
    let options = Options { python: Some(root.join("nowhere")), site_packages: vec![], ..options(&root) };
    let analysis = analyse(&options, &Silent).unwrap();
    assert!(notes(&analysis).contains("third-party packages are not followed"), "{}", notes(&analysis));
    assert_eq!(blocking(&analysis), ["good.Client.get"]);
}

#[test]
fn a_half_installed_package_is_told() {
    let root = tree("half", &[("good.py", BLOCKS.as_bytes()), ("site/gone-1.0.dist-info/top_level.txt", b"gone\n")]);
    let options =
        Options { site_packages: vec![root.join("site")], exclude: vec!["site".to_owned()], ..options(&root) };
    let analysis = analyse(&options, &Silent).unwrap();
    assert!(notes(&analysis).contains("gone-1.0 is only half installed"), "{}", notes(&analysis));
}

#[test]
fn modules_have_the_name_they_are_imported_by() {
    let root = tree(
        "layouts",
        &[
            ("one/pyproject.toml", b""),
            ("one/src/first/__init__.py", b""),
            ("one/src/first/mod.py", BLOCKS.as_bytes()),
            ("two/pyproject.toml", b""),
            ("two/second/__init__.py", b""),
            ("two/second/mod.py", BLOCKS.as_bytes()),
            ("space/part/mod.py", BLOCKS.as_bytes()),
        ],
    );
    let analysis = checked(&root);
    let mut found = blocking(&analysis);
    found.sort_unstable();
    assert_eq!(found, ["first.mod.Client.get", "second.mod.Client.get", "space.part.mod.Client.get"]);
}

#[test]
fn a_package_without_init_that_is_named_itself_is_imported_by_its_name() {
    let api = "from shop.client import Client\n\n\nasync def use():\n    Client().get()\n";
    let root = tree("namespace", &[("shop/client.py", BLOCKS.as_bytes()), ("shop/api.py", api.as_bytes())]);
    let shop = root.join("shop");
    let analysis = analyse(&Options { paths: vec![shop.clone()], ..options(&shop) }, &Silent).unwrap();
    assert_eq!(blocking(&analysis), ["shop.client.Client.get"]);
}

#[test]
fn nothing_to_check_is_an_error() {
    let root = tree("nothing", &[("readme.md", b"")]);
    assert!(analyse(&options(&root), &Silent).is_err());
    let missing = Options { paths: vec![root.join("missing")], ..options(&root) };
    let Err(error) = analyse(&missing, &Silent) else { panic!("nothing can be checked") };
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_second_run_says_the_same_out_of_the_cache_and_a_change_is_seen() {
    let uses = "from lib import Client\n\n\nasync def use():\n    Client().get()\n";
    let root = tree("cache", &[("lib.py", BLOCKS.as_bytes()), ("app.py", uses.as_bytes())]);
    let options = Options { cache: Some(root.join(".cache")), exclude: vec![".cache".to_owned()], ..options(&root) };
    let run = || {
        let analysis = analyse(&options, &Silent).unwrap();
        let found = serde_json::to_string(&analysis.findings).unwrap();
        let mut functions: Vec<_> =
            analysis.program.functions.values().map(|function| format!("{function:?}")).collect();
        functions.sort();
        (found, functions)
    };
    let cold = run();
    assert_eq!(run(), cold);
    for entry in std::fs::read_dir(root.join(".cache")).unwrap().flatten() {
        std::fs::write(entry.path(), "{ broken").unwrap();
    }
    assert_eq!(run(), cold);
    std::fs::write(root.join("lib.py"), BLOCKS.replace("time.sleep(1)", "pass")).unwrap();
    assert_ne!(run().1, cold.1);
    std::fs::write(root.join("lib.py"), BLOCKS).unwrap();
    assert_eq!(run(), cold);
}
