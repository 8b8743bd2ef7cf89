//! LW508: a signal handler that cannot be called with what it is given.

use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_text_size::{Ranged, TextSize};

use super::support;
use crate::context::{FileContext, functions};
use crate::finding::{Finding, Level};
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct SignalHandlerArity;

static META: RuleMeta = RuleMeta {
    code: "LW508",
    name: "signal-handler-arity",
    summary: "a signal handler that fails at the signal: its parameters are not what it is called with",
    pedantic: false,
    fix: None,
    page: include_str!("lw508.md"),
};

/// Who calls the handler, and where it stands in the call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registered {
    /// `loop.add_signal_handler(sig, handler, *args)`: called with `args`.
    WithLoop,
    /// `signal.signal(sig, handler)`: called with the number and the frame.
    WithSignal,
}

impl Rule for SignalHandlerArity {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_file(&self, file: &FileContext<'_>, found: &mut Vec<Finding>) {
        if !file.source.contains("add_signal_handler") && !file.source.contains("signal.signal") {
            return;
        }
        let all = functions(file.body());
        support::walk_nested(file.body(), &mut |node, _| {
            let support::Node::Expr(Expr::Call(call)) = node else { return };
            let Some(registered) = registered(file, call) else { return };
            let Some(handler) = call.arguments.find_positional(1) else { return };
            if call.arguments.args.iter().any(Expr::is_starred_expr) {
                return;
            }
            let given = match registered {
                Registered::WithLoop => call.arguments.args.len() - 2,
                Registered::WithSignal => 2,
            };
            let inside = enclosing(&all, call.start());
            let problem = match handler {
                Expr::Lambda(lambda) => {
                    let none = ast::Parameters::default();
                    refuses(lambda.parameters.as_deref().unwrap_or(&none), 0, given).map(|takes| (takes, false))
                }
                _ => {
                    let targets = file.resolver.reference_targets(handler);
                    let [target] = &targets[..] else { return };
                    let Some(key) = target.key.as_ref().filter(|key| key.path == file.path) else { return };
                    let Some(definition) = all.iter().find(|one| one.node.name.start().to_u32() == key.offset) else {
                        return;
                    };
                    if !definition.node.decorator_list.is_empty() {
                        return;
                    }
                    let own = usize::from(definition.class.is_some() && handler.is_attribute_expr());
                    if definition.node.is_async {
                        Some((String::new(), true))
                    } else {
                        refuses(&definition.node.parameters, own + target.bound as usize, given)
                            .map(|takes| (takes, false))
                    }
                }
            };
            let Some((takes, is_async)) = problem else { return };
            let name = file.text(handler.range());
            let short = if handler.is_lambda_expr() { "this lambda".to_owned() } else { format!("`{name}`") };
            let (message, help) = match (registered, is_async) {
                (Registered::WithLoop, true) => (
                    format!("{short} is a coroutine function: `add_signal_handler` raises TypeError"),
                    format!(
                        "register a plain function that starts it and keeps the task: `task = loop.create_task({name}())`"
                    ),
                ),
                (Registered::WithSignal, true) => (
                    format!("{short} is a coroutine function: at the signal a coroutine is made and never runs"),
                    "use `loop.add_signal_handler` with a plain function that starts a task".to_owned(),
                ),
                (Registered::WithLoop, false) => (
                    format!(
                        "the loop calls {short} with {}, it takes {takes}: TypeError at the signal",
                        arguments(given)
                    ),
                    "`add_signal_handler` passes on only what follows the handler: no signal number, no frame"
                        .to_owned(),
                ),
                (Registered::WithSignal, false) => (
                    format!(
                        "`signal` calls {short} with the number and the frame, it takes {takes}: TypeError at the signal"
                    ),
                    "take two parameters: `def handler(signum, frame)`".to_owned(),
                ),
            };
            let mut finding = file.finding(META.code, Level::Certain, handler.range(), &inside, message);
            finding.help = Some(help);
            found.push(finding);
        });
    }
}

fn registered(file: &FileContext<'_>, call: &ast::ExprCall) -> Option<Registered> {
    let name = support::last_name(&call.func)?;
    let targets = file.targets(call);
    let is = |wanted: &str| targets.iter().any(|target| target.qual == wanted);
    match name {
        "add_signal_handler" if targets.iter().any(|target| target.qual.ends_with("Loop.add_signal_handler")) => {
            Some(Registered::WithLoop)
        }
        "signal" if is("signal.signal") => Some(Registered::WithSignal),
        _ => None,
    }
}

/// What a function takes, in words, if it cannot be called with so many positional arguments. `own` are already given.
fn refuses(parameters: &ast::Parameters, own: usize, given: usize) -> Option<String> {
    let positional: Vec<_> = parameters.posonlyargs.iter().chain(&parameters.args).skip(own).collect();
    let required = positional.iter().filter(|parameter| parameter.default.is_none()).count();
    let keywords = parameters.kwonlyargs.iter().filter(|parameter| parameter.default.is_none()).count();
    let most = if parameters.vararg.is_some() { usize::MAX } else { positional.len() };
    if keywords == 0 && (required..=most).contains(&given) {
        return None;
    }
    Some(if keywords > 0 {
        "a keyword".to_owned()
    } else if most == usize::MAX {
        format!("at least {required}")
    } else if required == most {
        if required == 0 { "none".to_owned() } else { required.to_string() }
    } else {
        format!("{required} to {most}")
    })
}

fn arguments(count: usize) -> String {
    match count {
        0 => "no arguments".to_owned(),
        1 => "one argument".to_owned(),
        _ => format!("{count} arguments"),
    }
}

/// The innermost function around a place, or the module.
fn enclosing(all: &[crate::context::FunctionAt<'_>], at: TextSize) -> String {
    all.iter()
        .filter(|one| one.node.range.contains(at))
        .max_by_key(|one| one.node.start())
        .map_or_else(|| "<module>".to_owned(), |one| one.name.clone())
}
