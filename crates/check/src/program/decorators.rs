//! What calling a decorated function runs: the wrappers that its decorators return, and the function itself where they
//! let it through.

use super::higher_order::{HigherOrder, Use};
use super::{How, Program};
use crate::effects::{DecoratorKind, Elsewhere};
use crate::facts::{Certainty, Decorator, Function};

/// What a call of a decorated function runs.
#[derive(Debug)]
pub(super) struct Entry {
    /// Wrappers whose own bodies run, and the calls that lead to each.
    pub wrappers: Vec<(u32, Vec<(u32, usize)>)>,
    /// Whether the function itself runs, and how that is known.
    pub body: Body,
}

/// Whether the decorated function itself runs in the caller's thread.
#[derive(Debug)]
pub(super) enum Body {
    /// It does.
    Runs {
        /// How sure.
        certainty: Certainty,
        /// Why.
        how: How,
        /// Calls in between, in wrappers.
        through: Vec<(u32, usize)>,
        /// The first time only.
        once: bool,
    },
    /// It runs elsewhere.
    Offloaded(Elsewhere),
    /// A coroutine is made instead, or nobody calls it.
    Never,
}

/// Goes through the decorators of a function, outermost first. `awaited`: what the call returns is awaited, so a plain
/// function under a decorator that nobody knows is not plain any more.
pub(super) fn entry(program: &Program, higher: &HigherOrder, function: &Function, awaited: bool) -> Entry {
    let mut wrappers: Vec<(u32, Vec<(u32, usize)>)> = vec![];
    let mut through = vec![];
    let (mut certainty, mut how, mut once) = (Certainty::Certain, How::Resolved, false);
    for decorator in &function.decorators {
        match layer(program, higher, decorator) {
            Layer::Transparent => {}
            Layer::Cached => once = true,
            Layer::Offloads(to) => return Entry { wrappers, body: Body::Offloaded(to) },
            Layer::Unknown if awaited => return Entry { wrappers, body: Body::Never },
            Layer::Unknown => (certainty, how) = (certainty.min(Certainty::Likely), How::UnknownDecorator),
            Layer::Coroutine(wrapper) => {
                wrappers.push((wrapper, through));
                return Entry { wrappers, body: Body::Never };
            }
            Layer::Wrapper(wrapper, then) => {
                wrappers.push((wrapper, through.clone()));
                match then {
                    Then::Calls(steps, sure) => {
                        through.extend(steps);
                        certainty = certainty.min(sure);
                    }
                    Then::Offloads(to) => return Entry { wrappers, body: Body::Offloaded(to) },
                    Then::Nothing => return Entry { wrappers, body: Body::Never },
                }
            }
        }
    }
    Entry { wrappers, body: Body::Runs { certainty, how, through, once } }
}

/// The function that a decorator of the project puts in the place of the decorated one, if that is an `async def` that
/// calls it itself: then the wrapper is who runs it on the loop.
pub(super) fn calling_coroutine(
    program: &Program,
    higher: &HigherOrder,
    decorator: &Decorator,
) -> Option<(u32, Vec<(u32, usize)>)> {
    let Layer::Coroutine(wrapper) = layer(program, higher, decorator) else { return None };
    let param = decorating_param(program, decorator)?;
    let paths = higher.uses(wrapper, param);
    let path = paths.iter().find(|path| matches!(path.does, Use::Called(_)))?;
    Some((wrapper, path.steps.clone()))
}

enum Layer {
    Transparent,
    Cached,
    Offloads(Elsewhere),
    Coroutine(u32),
    Wrapper(u32, Then),
    Unknown,
}

enum Then {
    Calls(Vec<(u32, usize)>, Certainty),
    Offloads(Elsewhere),
    Nothing,
}

/// Decorators of the language, which mean the same whatever they resolve to.
const PLAIN: [&str; 4] = ["property", "staticmethod", "classmethod", "override"];

fn layer(program: &Program, higher: &HigherOrder, decorator: &Decorator) -> Layer {
    if let Some(kind) = known(program, decorator) {
        return match kind {
            DecoratorKind::Transparent | DecoratorKind::Handler { .. } => Layer::Transparent,
            DecoratorKind::Offloads(to) => Layer::Offloads(to),
            DecoratorKind::Cached => Layer::Cached,
        };
    }
    // `@x.setter` and the like belong to a property.
    let last = decorator.text.rsplit('.').next().unwrap_or_default();
    if PLAIN.contains(&decorator.text.as_str()) || matches!(last, "setter" | "getter" | "deleter" | "contextmanager") {
        return Layer::Transparent;
    }
    let Some(maker) = maker(program, decorator) else { return Layer::Unknown };
    let param = (maker, decorated_position(program.by_id(maker)));
    for target in &program.by_id(maker).returns {
        if super::higher_order::param_of(program, target) == Some(param) {
            return Layer::Transparent;
        }
        let Some(wrapper) = target.key.as_ref().and_then(|key| program.id(key)) else { continue };
        if program.by_id(wrapper).is_async {
            return Layer::Coroutine(wrapper);
        }
        let uses = higher.uses(wrapper, param);
        let called = uses.iter().find_map(|path| match &path.does {
            Use::Called(certainty) => Some((path.steps.clone(), *certainty)),
            _ => None,
        });
        let offloaded = uses.iter().find_map(|path| match &path.does {
            Use::Offloaded(to) => Some(*to),
            _ => None,
        });
        let then = match (called, offloaded) {
            (Some((steps, certainty)), None) => Then::Calls(steps, certainty),
            (Some((steps, _)), Some(_)) => Then::Calls(steps, Certainty::Likely),
            (None, Some(to)) => Then::Offloads(to),
            (None, None) => Then::Nothing,
        };
        return Layer::Wrapper(wrapper, then);
    }
    Layer::Unknown
}

/// What the table says of a decorator, by what it is or else as it is written.
pub(super) fn known(program: &Program, decorator: &Decorator) -> Option<DecoratorKind> {
    let by_target = decorator.targets.iter().find_map(|target| program.table.decorator(&target.qual));
    let entry = by_target.or_else(|| {
        let written = decorator.targets.is_empty().then_some(decorator.text.as_str())?;
        program.table.decorator(written).or_else(|| program.table.decorator(&format!("builtins.{written}")))
    });
    entry.map(|entry| entry.kind)
}

/// The function of the program that gets the decorated one: the decorator itself, or what `@decorator(...)` returns.
fn maker(program: &Program, decorator: &Decorator) -> Option<u32> {
    let own = decorator.targets.iter().find_map(|target| program.id(target.key.as_ref()?))?;
    if !decorator.called {
        return Some(own);
    }
    let returns = &program.by_id(own).returns;
    returns.iter().filter_map(|target| program.id(target.key.as_ref()?)).find(|inner| *inner != own)
}

/// The parameter of a decorator of the program that gets the decorated function.
pub(super) fn decorating_param(program: &Program, decorator: &Decorator) -> Option<super::higher_order::Param> {
    let maker = maker(program, decorator)?;
    Some((maker, decorated_position(program.by_id(maker))))
}

/// Where the decorated function comes among the parameters: after `self`, if the decorator is a method.
fn decorated_position(maker: &Function) -> u32 {
    u32::from(maker.params.first().is_some_and(|name| name == "self" || name == "cls"))
}
