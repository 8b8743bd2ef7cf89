//! LW503: two locks that are taken in both orders.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::facts::{FnKey, Held, Span};
use crate::finding::{Finding, Frame, Level};
use crate::program::Program;
use crate::rule::{Rule, RuleMeta};

/// The rule.
pub struct LockOrderInversion;

static META: RuleMeta = RuleMeta {
    code: "LW503",
    name: "lock-order-inversion",
    summary: "two locks are taken in one order here and in the other there: two tasks wait for each other",
    pedantic: false,
    fix: None,
    page: include_str!("lw503.md"),
};

const LOCKS: &[&str] = &[
    "asyncio.Lock",
    "asyncio.Condition",
    "anyio.Lock",
    "threading.Lock",
    "threading.RLock",
    "loopwright.Lock",
    "loopwright._loopwright.Lock",
    "loopwright.limits.Lock",
];

/// Where a second lock is taken while a first one is held.
#[derive(Clone)]
struct Nesting {
    function: FnKey,
    span: Span,
    /// Directly, or the function that takes it.
    through: Option<String>,
}

impl Rule for LockOrderInversion {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        let taken = taken(program);
        let mut order: BTreeMap<(String, String), Nesting> = BTreeMap::new();
        for key in &program.project {
            let Some(function) = program.function(key) else { continue };
            for site in &function.sites {
                let held: Vec<&str> = site.held.iter().filter_map(identity).collect();
                for (index, second) in held.iter().enumerate() {
                    for first in held[..index].iter().filter(|first| *first != second) {
                        let nesting = Nesting { function: key.clone(), span: site.span, through: None };
                        order.entry(((*first).to_owned(), (*second).to_owned())).or_insert(nesting);
                    }
                }
            }
            let awaited = program.awaits(key).iter().filter(|edge| function.sites[edge.site].awaited);
            for edge in program.callees(key).iter().chain(awaited) {
                let site = &function.sites[edge.site];
                let held: FxHashSet<&str> = site.held.iter().filter_map(identity).collect();
                let Some(below) = taken.get(&edge.to).filter(|_| !held.is_empty()) else { continue };
                let through = program.function(&edge.to).map(|callee| callee.qual.clone());
                for first in &held {
                    for second in below.iter().filter(|second| !held.contains(second.as_str())) {
                        let nesting = Nesting { function: key.clone(), span: site.span, through: through.clone() };
                        order.entry(((*first).to_owned(), second.clone())).or_insert(nesting);
                    }
                }
            }
        }
        for ((first, second), here) in &order {
            // Each pair once, in the order of the names.
            let Some(there) = order.get(&(second.clone(), first.clone())).filter(|_| first < second) else { continue };
            found.push(problem(program, first, second, here, there));
        }
    }
}

/// What identifies a lock of one of the known classes.
fn identity(held: &Held) -> Option<&str> {
    held.classes.iter().any(|class| LOCKS.contains(&class.as_str())).then_some(held.identity.as_deref()).flatten()
}

/// The locks that each function takes, itself and in what it calls.
fn taken(program: &Program) -> FxHashMap<FnKey, FxHashSet<String>> {
    let mut taken: FxHashMap<FnKey, FxHashSet<String>> = FxHashMap::default();
    let mut changed: Vec<FnKey> = vec![];
    for (key, function) in &program.functions {
        let own: FxHashSet<String> =
            function.sites.iter().flat_map(|site| site.held.iter().filter_map(identity)).map(str::to_owned).collect();
        if !own.is_empty() {
            taken.insert(key.clone(), own);
            changed.push(key.clone());
        }
    }
    while let Some(key) = changed.pop() {
        let below = taken[&key].clone();
        let awaiters =
            program.awaiters(&key).filter(|edge| program.site(&edge.from, edge.site).is_some_and(|site| site.awaited));
        for edge in program.callers(&key).chain(awaiters) {
            let above = taken.entry(edge.from.clone()).or_default();
            let before = above.len();
            above.extend(below.iter().cloned());
            if above.len() > before {
                changed.push(edge.from.clone());
            }
        }
    }
    taken
}

fn problem(program: &Program, first: &str, second: &str, here: &Nesting, there: &Nesting) -> Finding {
    let name = |nesting: &Nesting| {
        program.function(&nesting.function).map_or_else(String::new, |function| function.qual.clone())
    };
    let frame = |nesting: &Nesting, first: &str, second: &str| Frame {
        path: nesting.function.path.clone(),
        span: nesting.span,
        function: name(nesting),
        note: match &nesting.through {
            Some(function) => format!("holds `{first}`, takes `{second}` in `{function}`"),
            None => format!("holds `{first}`, takes `{second}`"),
        },
    };
    Finding {
        rule: META.code.into(),
        level: Level::Likely,
        path: there.function.path.clone(),
        span: there.span,
        function: name(there),
        message: format!(
            "`{second}` and then `{first}`, while `{}` takes them the other way round: a deadlock of two tasks",
            name(here)
        ),
        frames: vec![frame(here, first, second), frame(there, second, first)],
        why: Some("each of two tasks has got its first lock and waits for the other's; both wait for ever".into()),
        help: Some("take them in one order everywhere, or hold one lock for both".into()),
        tags: program.tags(&there.function),
        callers: vec![],
        callers_total: 0,
        fix: None,
        quiet: false,
    }
}
