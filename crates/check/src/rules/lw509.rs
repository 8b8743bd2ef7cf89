//! LW509: `repr` as the quoting of a shell command.

use ruff_python_ast as ast;
use ruff_python_ast::{ConversionFlag, Expr, InterpolatedStringElement, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support;
use crate::context::{FileContext, functions};
use crate::finding::{Edit, Finding, Fix, Frame, Level, Safety};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct ReprAsQuoting;

static META: RuleMeta = RuleMeta {
    code: "LW509",
    name: "repr-as-quoting",
    summary: "`repr` stands in for shell quoting: what a quote in the value ends, the shell executes",
    pedantic: false,
    fix: Some(Safety::Unsafe),
    page: include_str!("lw509.md"),
};

/// Calls whose first argument a shell reads, with where it is: position and keyword.
const SHELLS: &[(&str, usize, &str)] = &[
    ("asyncio.create_subprocess_shell", 0, "cmd"),
    ("os.system", 0, "command"),
    ("os.popen", 0, "cmd"),
    ("subprocess.getoutput", 0, "cmd"),
    ("subprocess.getstatusoutput", 0, "cmd"),
    ("asyncssh.connection.SSHClientConnection.run", 0, "command"),
    ("asyncssh.connection.SSHClientConnection.create_process", 0, "command"),
    ("paramiko.client.SSHClient.exec_command", 0, "command"),
    ("fabric.connection.Connection.run", 0, "command"),
    ("fabric.connection.Connection.sudo", 0, "command"),
];

/// Calls that read their first argument by a shell when they are told to.
const PERHAPS: &[&str] =
    &["subprocess.run", "subprocess.call", "subprocess.check_call", "subprocess.check_output", "subprocess.Popen"];

/// Methods of connections to other machines that run a command there.
const REMOTE: &[&str] = &["run", "exec_command", "create_process"];

/// A value in a command, and the range that stands for it there.
struct Quoted<'a> {
    value: &'a Expr,
    written: TextRange,
    braces: bool,
}

impl Rule for ReprAsQuoting {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains("!r}") && !file.source.contains("repr(") {
            return;
        }
        for function in functions(file.body()) {
            for call in support::calls(&function.node.body) {
                let Some((command, level)) = command_of(file, call) else { continue };
                let built = built_from(&function.node.body, command);
                if level == Level::Pedantic && !reads_as_command(built) {
                    continue;
                }
                for quoted in values(built) {
                    found.push(problem(file, &function.name, call, &quoted, level));
                }
            }
        }
    }
}

fn problem(file: &FileContext<'_>, function: &str, call: &ast::ExprCall, quoted: &Quoted<'_>, level: Level) -> Finding {
    let value = file.text(quoted.value.range());
    let shell = file.text(call.func.range());
    let message = format!("`repr` does not quote `{value}` for the shell that `{shell}` hands this command to");
    let mut finding = file.finding(META.code, level, call.range(), function, message);
    let frame = |range, note: String| Frame {
        path: file.path.clone(),
        span: file.span(range),
        function: file.resolver.in_module(function),
        note,
    };
    finding.frames = vec![
        frame(quoted.written, format!("`{value}` as a Python literal")),
        frame(call.func.range(), "a shell reads it".to_owned()),
    ];
    finding.why = Some("Python escapes a quote by a backslash, or chooses the other quote; inside of double quotes a shell still expands `$(...)`".into());
    finding.help =
        Some(format!("use `shlex.quote({value})`, or pass the arguments as a list to a program without a shell"));
    finding.fix = Some(quote(quoted, value));
    finding
}

/// The command of a call that a shell reads, and how sure that is.
fn command_of<'a>(file: &FileContext<'_>, call: &'a ast::ExprCall) -> Option<(&'a Expr, Level)> {
    let targets = file.targets(call);
    let names: Vec<String> = targets.into_iter().map(|target| target.qual).chain(file.qualified(&call.func)).collect();
    if let Some((_, position, keyword)) = SHELLS.iter().find(|(shell, ..)| names.iter().any(|name| name == shell)) {
        return Some((call.arguments.find_argument_value(keyword, *position)?, Level::Certain));
    }
    let by_shell = call
        .arguments
        .find_keyword("shell")
        .is_some_and(|keyword| matches!(&keyword.value, Expr::BooleanLiteral(literal) if literal.value));
    let perhaps =
        PERHAPS.iter().any(|name| names.iter().any(|one| one.strip_suffix(".__init__").unwrap_or(one) == *name));
    if perhaps && by_shell {
        return Some((call.arguments.find_argument_value("args", 0)?, Level::Certain));
    }
    // A receiver of which nothing is known: by the name of the method.
    let Expr::Attribute(method) = &*call.func else { return None };
    let remote = names.is_empty() && REMOTE.contains(&method.attr.as_str());
    if remote { Some((call.arguments.args.first()?, Level::Pedantic)) } else { None }
}

/// Begins with a word and a space, as commands do.
fn reads_as_command(command: &Expr) -> bool {
    let Expr::FString(string) = command else { return false };
    string.value.elements().next().is_some_and(|first| match first {
        InterpolatedStringElement::Literal(text) => text.value.split_once(' ').is_some_and(|(word, _)| {
            !word.is_empty() && word.chars().all(|one| one.is_ascii_lowercase() || "-_./".contains(one))
        }),
        InterpolatedStringElement::Interpolation(_) => false,
    })
}

/// The expression that made a local name, where there is only one.
fn built_from<'a>(body: &'a [Stmt], command: &'a Expr) -> &'a Expr {
    let Some(name) = support::name_of(command) else { return command };
    let mut values = vec![];
    support::walk(body, &mut |node, _| {
        if let support::Node::Stmt(statement) = node
            && let Some((target, value)) = support::simple_assignment(statement)
            && support::name_of(target) == Some(name)
        {
            values.push(value);
        }
    });
    match values[..] {
        [value] if support::bindings(body, name).len() == 1 => value,
        _ => command,
    }
}

/// The values of a command that went through `repr`.
fn values(command: &Expr) -> Vec<Quoted<'_>> {
    let mut found = vec![];
    support::walk_expr(command, &mut |node, _| {
        let support::Node::Expr(expression) = node else { return };
        match expression {
            Expr::FString(string) => {
                for element in string.value.elements() {
                    let InterpolatedStringElement::Interpolation(part) = element else { continue };
                    if part.conversion == ConversionFlag::Repr && part.debug_text.is_none() {
                        found.push(Quoted { value: &part.expression, written: part.range, braces: true });
                    }
                }
            }
            Expr::Call(call) if support::name_of(&call.func) == Some("repr") => {
                if let [value] = &call.arguments.args[..] {
                    found.push(Quoted { value, written: call.range(), braces: false });
                }
            }
            _ => {}
        }
    });
    found
}

fn quote(quoted: &Quoted<'_>, value: &str) -> Fix {
    let call = format!("shlex.quote({value})");
    let text = if quoted.braces { format!("{{{call}}}") } else { call };
    let edits = vec![Edit { start: quoted.written.start().to_u32(), end: quoted.written.end().to_u32(), text }];
    Fix { title: "quote with `shlex.quote`".into(), safety: Safety::Unsafe, edits, imports: vec!["shlex".into()] }
}
