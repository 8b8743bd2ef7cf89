//! From sites to edges: what each function runs on its own thread, which coroutines it makes, what it sends elsewhere.
//!
//! A plain call of a function runs it; of a coroutine function it makes a coroutine, which has a frame of its own on the
//! loop; of a generator function nothing, until somebody iterates. What is unknown makes no edge.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::decorators::{self, Body};
use super::dispatch::{self, Classes};
use super::higher_order::{self, HigherOrder, Param, Use};
use super::{Edge, How, Node, Offloaded, Primitive, Program, Scheduled, guards};
use crate::effects::Table;
use crate::facts::{Argument, Certainty, FnKey, FnKind, Function, Site, SiteKind, Target};

/// Hand-overs inside one call are not followed deeper than this.
const DEPTH: usize = 4;
/// A parameter that gets more functions than these says nothing of a single call any more.
const MANY: usize = 8;
/// Methods that only event loops have.
const LOOP_METHODS: [&str; 6] =
    ["call_soon", "call_soon_threadsafe", "call_later", "call_at", "add_signal_handler", "run_in_executor"];

/// Fills the nodes and the lists of callers.
pub(super) fn link(program: &mut Program) {
    let mut nodes = {
        let classes = Classes::new(&program.classes);
        let higher = HigherOrder::new(program, &classes);
        let kept = kept(program, &higher);
        let wrapped = wrapped(program, &higher);
        let registered = registered(program);
        let linker = Linker { program, classes, higher, kept, wrapped, registered, builtin: Table::builtin() };
        (0..program.keys.len() as u32).map(|id| linker.node(id)).collect::<Vec<_>>()
    };
    let mut callers = vec![vec![]; nodes.len()];
    let mut awaiters = vec![vec![]; nodes.len()];
    for (from, node) in nodes.iter_mut().enumerate() {
        dedup(&mut node.edges);
        dedup(&mut node.awaits);
        for (place, edge) in node.edges.iter().enumerate() {
            callers[edge.to_id as usize].push((from as u32, place as u32));
        }
        for (place, edge) in node.awaits.iter().enumerate() {
            awaiters[edge.to_id as usize].push((from as u32, place as u32));
        }
    }
    (program.nodes, program.callers, program.awaiters) = (nodes, callers, awaiters);
}

/// One edge for each site and callee: the most certain, then the shortest.
fn dedup(edges: &mut Vec<Edge>) {
    edges.sort_by_key(|edge| (edge.site, edge.to_id, std::cmp::Reverse(edge.certainty), edge.through.len()));
    edges.dedup_by_key(|edge| (edge.site, edge.to_id));
}

/// What is handed over for parameters that outlive the call: those that a nested function, another method of the same
/// object or the user of a registry calls.
fn kept(program: &Program, higher: &HigherOrder) -> FxHashMap<Param, Vec<Target>> {
    let mut kept: FxHashMap<Param, Vec<Target>> = FxHashMap::default();
    let mut elsewhere: FxHashSet<Param> = FxHashSet::default();
    for id in 0..program.keys.len() as u32 {
        let function = program.by_id(id);
        let called = function.sites.iter().flat_map(|site| &site.targets);
        for param in called.filter_map(|target| higher_order::param_of(program, target)) {
            // Where the owner itself runs it before it returns, the edge is made at the owner's call.
            if param.0 != id && higher.uses(param.0, param).is_empty() {
                kept.entry(param).or_default();
                if !higher_order::around(program, function).any(|outer| outer == param.0) {
                    elsewhere.insert(param);
                }
            }
        }
    }
    let mut positions: FxHashMap<u32, Vec<u32>> = FxHashMap::default();
    for param in kept.keys() {
        positions.entry(param.0).or_default().push(param.1);
    }
    for id in 0..program.keys.len() as u32 {
        for site in &program.by_id(id).sites {
            for target in &site.targets {
                let Some(owner) = target.key.as_ref().and_then(|key| program.id(key)) else { continue };
                for position in positions.get(&owner).into_iter().flatten() {
                    let callee = program.by_id(owner);
                    let Some(argument) = higher_order::argument_for(callee, *position, site, target) else { continue };
                    let given = kept.entry((owner, *position)).or_default();
                    for function in argument.targets.iter().filter(|function| function.param.is_none()) {
                        if !given.iter().any(|known| known.qual == function.qual && known.key == function.key) {
                            given.push(function.clone());
                        }
                    }
                }
            }
        }
    }
    kept.retain(|_, given| given.len() <= MANY);
    // A registry runs each of its functions, however many there are.
    for id in 0..program.keys.len() as u32 {
        let function = program.by_id(id);
        for param in function.decorators.iter().filter_map(|decorator| decorators::decorating_param(program, decorator))
        {
            if let Some(given) = kept.get_mut(&param).filter(|_| elsewhere.contains(&param)) {
                given.push(itself(function));
            }
        }
    }
    kept
}

/// The target that a function's own name is.
fn itself(function: &Function) -> Target {
    Target {
        qual: function.qual.clone(),
        key: Some(function.key.clone()),
        param: None,
        is_async: function.is_async,
        body: true,
        bound: 0,
        certainty: Certainty::Certain,
    }
}

struct Linker<'a> {
    program: &'a Program,
    classes: Classes<'a>,
    higher: HigherOrder,
    kept: FxHashMap<Param, Vec<Target>>,
    wrapped: Wrapped,
    registered: FxHashMap<(&'a str, &'a str), Vec<u32>>,
    builtin: Table,
}

/// The functions under `@f.register` by the file and the name of `f`: what `functools.singledispatch` chooses from.
fn registered(program: &Program) -> FxHashMap<(&str, &str), Vec<u32>> {
    let mut registered: FxHashMap<(&str, &str), Vec<u32>> = FxHashMap::default();
    for id in 0..program.keys.len() as u32 {
        let function = program.by_id(id);
        for name in function.decorators.iter().filter_map(|decorator| decorator.text.strip_suffix(".register")) {
            registered.entry((&function.key.path, name)).or_default().push(id);
        }
    }
    registered
}

/// For each `async def` that a decorator puts in the place of functions: these functions, and the calls that lead there.
type Wrapped = FxHashMap<u32, Vec<(u32, Vec<(u32, usize)>)>>;

fn wrapped(program: &Program, higher: &HigherOrder) -> Wrapped {
    let mut wrapped = Wrapped::default();
    for id in 0..program.keys.len() as u32 {
        for decorator in &program.by_id(id).decorators {
            if let Some((wrapper, steps)) = decorators::calling_coroutine(program, higher, decorator) {
                wrapped.entry(wrapper).or_default().push((id, steps));
            }
        }
    }
    wrapped
}

/// A call that is being resolved: whose site it is, and how the target was come to.
#[derive(Clone)]
struct At<'s> {
    id: u32,
    index: usize,
    site: &'s Site,
    kind: SiteKind,
    arguments: &'s [Argument],
    certainty: Certainty,
    how: How,
    through: Vec<(u32, usize)>,
    depth: usize,
}

impl Linker<'_> {
    fn node(&self, id: u32) -> Node {
        let mut node = Node::default();
        let function = self.program.by_id(id);
        for (index, site) in function.sites.iter().enumerate() {
            if guards::off_loop(site, self.program) {
                node.guarded.push(index);
                continue;
            }
            let how = if site.targets.len() > 1 { How::OneOfSeveral } else { How::Resolved };
            for target in &site.targets {
                let how = if target.certainty == Certainty::Certain { How::Resolved } else { how };
                let at = At {
                    id,
                    index,
                    site,
                    kind: site.kind,
                    arguments: &site.arguments,
                    certainty: target.certainty,
                    how,
                    through: vec![],
                    depth: 0,
                };
                self.target(&mut node, &at, target);
            }
            if site.targets.is_empty() {
                self.by_name(&mut node, id, index, site);
            }
            if site.kind == SiteKind::Enter {
                self.managed(&mut node, id, index, site);
            }
        }
        self.decorated(&mut node, id);
        node
    }

    /// A call of a method that only event loops have, on an object of which nothing is known.
    fn by_name(&self, node: &mut Node, id: u32, index: usize, site: &Site) {
        let method = site.text.rsplit_once('.').map_or("", |(_, method)| method);
        if !LOOP_METHODS.contains(&method) {
            return;
        }
        let qual = format!("asyncio.events.AbstractEventLoop.{method}");
        let target = Target {
            qual,
            key: None,
            param: None,
            is_async: false,
            body: false,
            bound: 0,
            certainty: Certainty::Likely,
        };
        if let Some((argument, does)) = higher_order::by_table(self.program, site, &target) {
            let at = At {
                id,
                index,
                site,
                kind: SiteKind::Call,
                arguments: &site.arguments,
                certainty: Certainty::Likely,
                how: How::Resolved,
                through: vec![],
                depth: 0,
            };
            self.given(node, &at, argument, &does, vec![]);
        }
    }

    /// What a target runs when it is called at this place.
    fn target(&self, node: &mut Node, at: &At<'_>, target: &Target) {
        if at.depth > DEPTH {
            return;
        }
        let program = self.program;
        if target.param.is_some() {
            self.stored(node, at, target);
            return;
        }
        let is_awaitable = target.is_async || at.site.awaited && at.depth == 0;
        let blocks = program.table.blocks(&target.qual).filter(|_| !is_awaitable && !self.is_own(target));
        if let Some(blocks) = blocks
            && blocks.applies(at.arguments)
            && !guards::already(at.site, &target.qual)
        {
            node.primitives.push(Primitive {
                site: at.index,
                qual: target.qual.clone(),
                certainty: at.certainty,
                how: at.how,
                through: self.through(&at.through),
            });
        }
        let ours = target.key.as_ref().and_then(|key| program.id(key)).is_some_and(|id| program.owned[id as usize]);
        if !ours && program.table.harmless(&target.qual).is_some() {
            return;
        }
        if at.depth == 0
            && at.kind == SiteKind::Call
            && let Some((argument, does)) = higher_order::by_table(program, at.site, target)
        {
            self.given(node, at, argument, &does, vec![]);
            return;
        }
        // What the table tells needs no look at the source.
        if blocks.is_some() {
            return;
        }
        let direct = target.key.as_ref().and_then(|key| program.id(key));
        let function = direct.map(|id| program.by_id(id));
        if target.body
            && let Some(callee) = direct
        {
            self.call(node, at, callee, target);
        }
        if let Some(function) = function.filter(|function| is_single_dispatch(function)) {
            for other in self.registered.get(&(&*function.key.path, function.name.as_str())).into_iter().flatten() {
                let certainty = at.certainty.min(Certainty::Likely);
                self.call(node, &At { certainty, how: How::OneOfSeveral, ..at.clone() }, *other, target);
            }
        }
        // `super()` and a class by its name say which body they mean.
        if at.site.text.starts_with("super()") {
            let own = program.by_id(at.id).class.as_deref();
            let method = target.qual.rsplit('.').next().unwrap_or_default();
            for key in own.map_or(vec![], |own| self.classes.after(own, method)) {
                if let Some(next) = program.id(&key).filter(|next| Some(*next) != direct) {
                    let certainty = at.certainty.min(Certainty::Likely);
                    self.call(node, &At { certainty, how: How::Override, ..at.clone() }, next, target);
                }
            }
            return;
        }
        if let Some((class, method)) = dispatch::method_of(function, &target.qual) {
            let class = self.receiver(at).filter(|own| self.classes.ancestors(own).contains(&class)).unwrap_or(class);
            let in_test = program.tests[at.id as usize];
            let ours = |key: &crate::facts::FnKey| {
                program.id(key).is_some_and(|id| Some(id) != direct && (in_test || !program.tests[id as usize]))
            };
            for body in self.classes.others(class, method, ours) {
                let Some(callee) = program.id(&body.key) else { continue };
                let at = At { certainty: at.certainty.min(body.certainty), how: body.how, ..at.clone() };
                self.call(node, &at, callee, target);
            }
        }
    }

    /// Whether a name of the table is here a module of the project that happens to be called so.
    fn is_own(&self, target: &Target) -> bool {
        let ours = target.key.as_ref().is_some_and(|key| self.program.owned_paths.contains(&key.path));
        ours && self.builtin.blocks(&target.qual).is_some()
    }

    /// The class of `self` where a method calls another one of its own object.
    fn receiver(&self, at: &At<'_>) -> Option<&str> {
        let rest = at.site.text.strip_prefix("self.")?;
        if rest.contains('.') || at.depth > 0 {
            return None;
        }
        self.program.by_id(at.id).class.as_deref()
    }

    /// A call of a function whose source is known.
    fn call(&self, node: &mut Node, at: &At<'_>, callee: u32, target: &Target) {
        let program = self.program;
        let function = program.by_id(callee);
        if function.is_async {
            node.awaits.push(self.edge(at, callee, false));
        }
        let managed = function.decorators.iter().any(|decorator| decorator.text.ends_with("contextmanager"));
        let runs = match at.kind {
            SiteKind::Enter => !function.is_generator || managed,
            SiteKind::Iterate => true,
            _ => !function.is_generator,
        };
        if !runs {
            return;
        }
        let entry = decorators::entry(program, &self.higher, function, at.site.awaited);
        for (wrapper, steps) in entry.wrappers {
            let at = At { through: joined(&at.through, &steps), ..at.clone() };
            if program.by_id(wrapper).is_async {
                node.awaits.push(self.edge(&at, wrapper, false));
            } else if !program.by_id(wrapper).is_generator {
                node.edges.push(self.edge(&at, wrapper, false));
            }
        }
        match entry.body {
            _ if function.is_async => {}
            Body::Runs { certainty, how, through, once } => {
                let how = if how == How::Resolved { at.how } else { how };
                let certainty = certainty.min(at.certainty);
                let at = At { certainty, how, through: joined(&at.through, &through), ..at.clone() };
                // The body of a module runs with its first import.
                let once = once || function.kind == FnKind::Module;
                node.edges.push(self.edge(&at, callee, once));
            }
            Body::Offloaded(to) => node.offloaded.push(Offloaded { site: at.index, target: target.clone(), to }),
            Body::Never => {}
        }
        if at.depth == 0 {
            for (param, path) in self.higher.all(callee) {
                if param.0 == callee
                    && let Some(argument) = higher_order::argument_for(function, param.1, at.site, target)
                {
                    self.given(node, at, argument, &path.does, path.steps.clone());
                }
            }
        }
    }

    /// A function that is handed over, and what becomes of it.
    fn given(&self, node: &mut Node, at: &At<'_>, argument: &Argument, does: &Use, steps: Vec<(u32, usize)>) {
        for target in &argument.targets {
            if target.param.is_some() {
                continue;
            }
            match does {
                Use::Called(certainty) => {
                    let how = if target.certainty == Certainty::Certain { How::Argument } else { How::OneOfSeveral };
                    let at = At {
                        kind: SiteKind::Call,
                        arguments: &[],
                        certainty: at.certainty.min(*certainty).min(target.certainty),
                        how,
                        through: joined(&at.through, &steps),
                        depth: at.depth + 1,
                        ..at.clone()
                    };
                    self.target(node, &at, target);
                }
                Use::Offloaded(to) => {
                    node.offloaded.push(Offloaded { site: at.index, target: target.clone(), to: *to });
                }
                Use::Scheduled(tag) => {
                    let certainty = target.certainty.min(at.certainty);
                    let target = Target { certainty, ..target.clone() };
                    node.scheduled.push(Scheduled { site: at.index, target, tag: *tag });
                }
            }
        }
        if let (Use::Scheduled(tag), Some(called)) = (does, &argument.called) {
            for site in self.inside(at.id, at.site, called) {
                for target in site.targets.iter().filter(|target| target.is_async) {
                    node.scheduled.push(Scheduled { site: at.index, target: target.clone(), tag: *tag });
                }
            }
        }
    }

    /// The calls with this text among the arguments of another one.
    fn inside<'s>(&'s self, id: u32, outer: &Site, text: &str) -> impl Iterator<Item = &'s Site> {
        let (start, end, text) = (outer.span.start, outer.span.end, text.to_owned());
        self.program.by_id(id).sites.iter().filter(move |site| {
            site.kind == SiteKind::Call && site.span.start > start && site.span.end <= end && site.text == text
        })
    }

    /// `with f():` of a generator function under `@contextmanager`: entering runs its body.
    fn managed(&self, node: &mut Node, id: u32, index: usize, site: &Site) {
        let function = self.program.by_id(id);
        let calls = function.sites.iter().filter(|call| {
            call.kind == SiteKind::Call && call.span.start == site.span.start && call.span.end == site.span.end
        });
        for target in calls.flat_map(|call| &call.targets) {
            let at = At {
                id,
                index,
                site,
                kind: SiteKind::Enter,
                arguments: &[],
                certainty: target.certainty,
                how: How::Resolved,
                through: vec![],
                depth: 0,
            };
            let callee = target.key.as_ref().and_then(|key| self.program.id(key));
            if let Some(callee) = callee.filter(|id| self.program.by_id(*id).is_generator) {
                self.call(node, &at, callee, target);
            }
        }
    }

    /// A call of a parameter of another function: of the one around, or of `__init__`, which kept it. It runs whatever
    /// the calls of that function hand over.
    fn stored(&self, node: &mut Node, at: &At<'_>, target: &Target) {
        let given = higher_order::param_of(self.program, target).and_then(|param| self.kept.get(&param));
        let Some(given) = given.filter(|_| at.depth == 0) else { return };
        let how = if given.len() == 1 { How::Argument } else { How::OneOfSeveral };
        let certainty = if given.len() == 1 { target.certainty } else { Certainty::Likely.min(target.certainty) };
        for function in given {
            let at = At {
                kind: SiteKind::Call,
                arguments: &[],
                certainty: certainty.min(function.certainty),
                how,
                depth: 1,
                ..at.clone()
            };
            self.target(node, &at, function);
        }
    }

    /// An `async def` that a decorator puts in the place of a function calls that function on the loop.
    fn decorated(&self, node: &mut Node, id: u32) {
        for (decorated, steps) in self.wrapped.get(&id).into_iter().flatten() {
            let Some(((_, index), rest)) = steps.split_first() else { continue };
            let site = &self.program.by_id(id).sites[*index];
            let at = At {
                id,
                index: *index,
                site,
                kind: SiteKind::Call,
                arguments: &[],
                certainty: Certainty::Certain,
                how: How::Argument,
                through: rest.to_vec(),
                depth: 1,
            };
            let function = self.program.by_id(*decorated);
            if function.is_async {
                node.awaits.push(self.edge(&at, *decorated, false));
            } else if !function.is_generator && !self.is_awaited(steps) {
                node.edges.push(self.edge(&at, *decorated, false));
            }
        }
    }

    /// Whether the last of these steps is an `await f()`: a decorator that has two wrappers means coroutines there.
    fn is_awaited(&self, steps: &[(u32, usize)]) -> bool {
        steps.last().is_some_and(|(id, index)| self.program.by_id(*id).sites[*index].awaited)
    }

    fn edge(&self, at: &At<'_>, to: u32, once: bool) -> Edge {
        Edge {
            from: self.program.keys[at.id as usize].clone(),
            site: at.index,
            to: self.program.keys[to as usize].clone(),
            certainty: at.certainty,
            how: at.how,
            through: self.through(&at.through),
            once,
            to_id: to,
        }
    }

    fn through(&self, steps: &[(u32, usize)]) -> Arc<[(FnKey, usize)]> {
        steps.iter().map(|(id, site)| (self.program.keys[*id as usize].clone(), *site)).collect()
    }
}

fn is_single_dispatch(function: &Function) -> bool {
    function.decorators.iter().any(|decorator| decorator.text.contains("singledispatch"))
}

fn joined(one: &[(u32, usize)], other: &[(u32, usize)]) -> Vec<(u32, usize)> {
    one.iter().chain(other).copied().collect()
}
