//! LW509: `repr` as the quoting of a shell command.

use ruff_python_ast as ast;
use ruff_python_ast::{ConversionFlag, Expr, InterpolatedStringElement, Stmt};
use ruff_text_size::{Ranged, TextRange};

use super::support;
use crate::context::{FileContext, functions};
use crate::finding::{Edit, Finding, Fix, Level, Safety};
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
                let Some(command) = command_of(file, call) else { continue };
                let command = built_from(&function.node.body, command);
                for quoted in values(command) {
                    let value = file.text(quoted.value.range());
                    let message = format!("`repr` does not quote `{value}` for the shell that runs this command");
                    let mut finding = file.finding(META.code, Level::Certain, quoted.written, &function.name, message);
                    finding.why = Some("Python escapes a quote by a backslash, or chooses the other quote; inside of double quotes a shell still expands `$(...)`".into());
                    finding.help = Some(format!(
                        "use `shlex.quote({value})`, or pass the arguments as a list to a program without a shell"
                    ));
                    finding.fix = Some(quote(&quoted, value));
                    found.push(finding);
                }
            }
        }
    }
}

/// The command of a call that a shell reads.
fn command_of<'a>(file: &FileContext<'_>, call: &'a ast::ExprCall) -> Option<&'a Expr> {
    let names: Vec<String> =
        file.targets(call).into_iter().map(|target| target.qual).chain(file.qualified(&call.func)).collect();
    if let Some((_, position, keyword)) = SHELLS.iter().find(|(shell, ..)| names.iter().any(|name| name == shell)) {
        return call.arguments.find_argument_value(keyword, *position);
    }
    let by_shell = call
        .arguments
        .find_keyword("shell")
        .is_some_and(|keyword| matches!(&keyword.value, Expr::BooleanLiteral(literal) if literal.value));
    let perhaps =
        PERHAPS.iter().any(|name| names.iter().any(|other| other == name || other == &format!("{name}.__init__")));
    if perhaps && by_shell { call.arguments.find_argument_value("args", 0) } else { None }
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
