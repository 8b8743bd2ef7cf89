//! What the frontend says of the constructs that calls hide in: `tests/facts` is a small project, the snapshot its
//! facts, function by function.

use std::fmt::Write;
use std::path::Path;

use expect_test::expect_file;
use loopwright_check::analyse;
use loopwright_check::facts::{Certainty, Function, Target};
use loopwright_check::options::Options;
use loopwright_check::progress::Silent;

fn target(target: &Target) -> String {
    let mut text = match &target.param {
        Some((_, position)) => format!("parameter {position}"),
        None => target.qual.clone(),
    };
    if target.is_async {
        text.insert_str(0, "async ");
    }
    if target.bound > 0 {
        write!(text, " +{}", target.bound).unwrap();
    }
    match target.certainty {
        Certainty::Certain => {}
        Certainty::Likely => text.push_str(" (likely)"),
        Certainty::Guess => text.push_str(" (guess)"),
    }
    text
}

fn shown(function: &Function, text: &mut String) {
    writeln!(text, "{}{}", if function.is_async { "async " } else { "" }, function.qual).unwrap();
    for decorator in &function.decorators {
        let targets: Vec<_> = decorator.targets.iter().map(target).collect();
        writeln!(text, "  @{} = {}", decorator.text, targets.join(" | ")).unwrap();
    }
    for site in &function.sites {
        let targets: Vec<_> = site.targets.iter().map(target).collect();
        let mut marks = vec![];
        marks.extend(site.awaited.then(|| "awaited".to_owned()));
        marks.extend(site.in_loop.then(|| "in loop".to_owned()));
        marks.extend(site.held.iter().map(|held| {
            format!("under {} = {} {}", held.text, held.classes.join("|"), held.identity.as_deref().unwrap_or("?"))
        }));
        marks.extend(site.guards.iter().map(|guard| format!("{guard:?}")));
        let marks = if marks.is_empty() { String::new() } else { format!(" [{}]", marks.join(", ")) };
        writeln!(text, "  {}: {:?} {}{marks} -> {}", site.span.line, site.kind, site.text, targets.join(" | "))
            .unwrap();
        for argument in &site.arguments {
            if !argument.targets.is_empty() {
                let targets: Vec<_> = argument.targets.iter().map(target).collect();
                let name =
                    argument.keyword.clone().unwrap_or_else(|| argument.position.unwrap_or_default().to_string());
                writeln!(text, "      {name} = {}", targets.join(" | ")).unwrap();
            }
        }
    }
    if !function.returns.is_empty() {
        let targets: Vec<_> = function.returns.iter().map(target).collect();
        writeln!(text, "  returns {}", targets.join(" | ")).unwrap();
    }
}

#[test]
fn constructs() {
    let root = std::fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/facts")).unwrap();
    let options = Options {
        paths: vec![root.clone()],
        project: root.clone(),
        roots: vec![root.clone()],
        exclude: vec!["site".to_owned()],
        site_packages: vec![root.join("site")],
        python_version: Some((3, 13)),
        threads: Some(1),
        ..Options::default()
    };
    let analysis = analyse(&options, &Silent).unwrap();
    let mut functions: Vec<_> = analysis.program.functions.values().collect();
    functions.sort_by(|a, b| a.key.cmp(&b.key));
    let mut text = String::new();
    for function in functions {
        shown(function, &mut text);
    }
    for (path, skipped) in &analysis.skipped {
        writeln!(text, "skipped {path}: {skipped:?}").unwrap();
    }
    expect_file![root.with_file_name("snapshots").join("facts.txt")].assert_eq(&text);
}
