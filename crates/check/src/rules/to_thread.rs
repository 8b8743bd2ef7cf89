//! The fix of a blocking call: `await asyncio.to_thread(f, ...)` where the chain leaves the coroutine. What LW101 and
//! LW102 share.

use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_text_size::Ranged;

use super::support::{self, Node};
use crate::effects::Kind;
use crate::facts::SiteKind;
use crate::finding::{Edit, Fix, Level, Safety};
use crate::program::{Program, Root};

/// A fix, if the call that leaves the coroutine stands in the finding's file and can be awaited there.
pub fn fix(program: &Program, root: &Root) -> Option<Fix> {
    let first = root.steps.first()?;
    let site = program.site(&first.function, first.site)?;
    let coroutine = program.function(&first.function)?.is_async;
    let movable = !matches!(root.kind, Kind::Loop | Kind::Wait) && !super::chains::blocks(program, root)?.gil;
    let here = first.function == root.entry && first.function.path == root.function.path;
    if !coroutine || !movable || !here || site.kind != SiteKind::Call || site.awaited {
        return None;
    }
    let source = std::fs::read_to_string(&*root.function.path).ok()?;
    let module = ruff_python_parser::parse_module(&source).ok()?;
    let (start, end) = (site.span.start as usize, site.span.end as usize);
    let sleeps = root.primitive == "time.sleep" && root.steps.len() == 1;
    let mut text = None;
    support::walk_nested(&module.syntax().body, &mut |node, around| {
        if let Node::Expr(Expr::Call(call)) = node
            && (call.start().to_usize(), call.end().to_usize()) == (start, end)
        {
            text = awaited(&source, call, around, sleeps);
        }
    });
    // A thread may be one more than an object was made for: only functions without one are moved without asking.
    let safe = root.level == Level::Certain && root.steps.len() == 1 && (sleeps || is_function(&root.primitive));
    Some(Fix {
        title: if sleeps { "use `asyncio.sleep`" } else { "call it in a thread, with `asyncio.to_thread`" }.to_owned(),
        safety: if safe { Safety::Safe } else { Safety::Unsafe },
        edits: vec![Edit { start: site.span.start, end: site.span.end, text: text? }],
        imports: vec!["asyncio".to_owned()],
    })
}

/// Whether a name is a function of a module, not a method.
fn is_function(qual: &str) -> bool {
    let before = qual.rsplit_once('.').and_then(|(before, _)| before.rsplit('.').next());
    before.is_some_and(|before| !before.trim_start_matches('_').starts_with(char::is_uppercase) && before != "socket")
}

/// The call as it is awaited; none where no `await` can stand, or where the call cannot be taken apart.
fn awaited(source: &str, call: &ast::ExprCall, around: &[Node<'_>], sleeps: bool) -> Option<String> {
    for node in around.iter().rev() {
        match node {
            Node::Expr(Expr::Lambda(_) | Expr::Generator(_)) => return None,
            Node::Stmt(ast::Stmt::FunctionDef(function)) if function.is_async => break,
            Node::Stmt(ast::Stmt::FunctionDef(_) | ast::Stmt::ClassDef(_)) => return None,
            _ => {}
        }
    }
    if matches!(&*call.arguments.args, [Expr::Generator(generator)] if !generator.parenthesized) {
        return None;
    }
    let range = call.arguments.range();
    let inner = &source[range.start().to_usize() + 1..range.end().to_usize() - 1];
    let text = if sleeps {
        format!("await asyncio.sleep({inner})")
    } else {
        let function = &source[call.func.range()];
        let comma = match inner.chars().next() {
            None => "",
            Some(first) if first.is_whitespace() => ",",
            Some(_) => ", ",
        };
        format!("await asyncio.to_thread({function}{comma}{inner})")
    };
    let bound = match around.last() {
        Some(Node::Expr(Expr::Attribute(_) | Expr::Starred(_))) => true,
        Some(Node::Expr(Expr::Subscript(outer))) => outer.value.range() == call.range(),
        Some(Node::Expr(Expr::Call(outer))) => outer.func.range() == call.range(),
        _ => false,
    };
    Some(if bound { format!("({text})") } else { text })
}
