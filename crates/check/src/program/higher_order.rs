//! Functions that are handed over as arguments: what a function does with its parameters, through any number of others.
//!
//! The answer belongs to the function that gets the argument; the edge is made where the argument is given, so that one
//! helper that calls back does not make each of its users responsible for what the others hand over.

use rustc_hash::FxHashMap;

use super::dispatch::Classes;
use super::{Program, guards};
use crate::effects::Elsewhere;
use crate::facts::{Argument, Certainty, FnKind, Function, Site, SiteKind, Target};
use crate::finding::Tag;

/// Chains of hand-overs longer than this are not followed.
const ROUNDS: usize = 8;

/// A parameter: the function's number and the position.
pub(super) type Param = (u32, u32);

/// What becomes of a parameter in the body of a function.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Use {
    /// It is called on the caller's thread.
    Called(Certainty),
    /// It is called elsewhere.
    Offloaded(Elsewhere),
    /// The loop calls it later.
    Scheduled(Tag),
}

/// A use, and the calls that lead to it: numbers of functions and their sites.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub does: Use,
    pub steps: Vec<(u32, usize)>,
}

/// What each function does with the parameters that it can see: its own, and those of the functions around it.
pub(super) struct HigherOrder {
    uses: FxHashMap<u32, FxHashMap<Param, Vec<Path>>>,
}

impl HigherOrder {
    pub(super) fn new(program: &Program, classes: &Classes<'_>) -> Self {
        let mut this = Self { uses: FxHashMap::default() };
        let ids: Vec<u32> =
            (0..program.keys.len() as u32).filter(|id| concerned(program, program.by_id(*id))).collect();
        for _ in 0..ROUNDS {
            let mut grown = false;
            for id in &ids {
                grown |= this.look(program, classes, *id);
            }
            if !grown {
                break;
            }
        }
        this
    }

    /// What a function does with a parameter.
    pub(super) fn uses(&self, function: u32, param: Param) -> &[Path] {
        self.uses.get(&function).and_then(|uses| uses.get(&param)).map_or(&[], |paths| paths)
    }

    /// What a function does with any parameter.
    pub(super) fn all(&self, function: u32) -> impl Iterator<Item = (Param, &Path)> {
        let uses = self.uses.get(&function).into_iter().flatten();
        uses.flat_map(|(param, paths)| paths.iter().map(|path| (*param, path)))
    }

    fn look(&mut self, program: &Program, classes: &Classes<'_>, id: u32) -> bool {
        let function = program.by_id(id);
        let mut grown = false;
        for (index, site) in function.sites.iter().enumerate() {
            if guards::off_loop(site, program) {
                continue;
            }
            for target in &site.targets {
                if let Some(param) = param_of(program, target)
                    && site.kind == SiteKind::Call
                {
                    grown |= self.add(id, param, Use::Called(target.certainty), vec![(id, index)]);
                }
                if let Some((argument, does)) = by_table(program, site, target) {
                    for param in argument.targets.iter().filter_map(|target| param_of(program, target)) {
                        grown |= self.add(id, param, does.clone(), vec![(id, index)]);
                    }
                }
            }
            for (callee, target) in callees(program, classes, site) {
                for (param, path) in self.all(callee).map(|(param, path)| (param, path.clone())).collect::<Vec<_>>() {
                    let steps = || std::iter::once((id, index)).chain(path.steps.iter().copied()).collect();
                    if param.0 == callee {
                        let Some(argument) = argument_for(program.by_id(callee), param.1, site, target) else {
                            continue;
                        };
                        for own in argument.targets.iter().filter_map(|target| param_of(program, target)) {
                            grown |= self.add(id, own, path.does.clone(), steps());
                        }
                    } else if param.0 == id || around(program, function).any(|outer| outer == param.0) {
                        grown |= self.add(id, param, path.does.clone(), steps());
                    }
                }
            }
        }
        grown
    }

    /// Keeps the first path of each kind: sites come in order, so the choice is always the same.
    fn add(&mut self, function: u32, param: Param, does: Use, steps: Vec<(u32, usize)>) -> bool {
        let paths = self.uses.entry(function).or_default().entry(param).or_default();
        let known = paths.iter().any(|path| std::mem::discriminant(&path.does) == std::mem::discriminant(&does));
        if !known {
            paths.push(Path { does, steps });
        }
        !known
    }
}

/// Whether it can matter to parameters: it uses one, or calls something that is nested in it.
fn concerned(program: &Program, function: &Function) -> bool {
    function.sites.iter().any(|site| {
        site.targets.iter().any(|target| {
            target.param.is_some()
                || target.key.as_ref().and_then(|key| program.functions.get(key)).is_some_and(|to| to.parent.is_some())
        }) || site.arguments.iter().any(|argument| argument.targets.iter().any(|target| target.param.is_some()))
    })
}

/// The parameter that a target is.
pub(super) fn param_of(program: &Program, target: &Target) -> Option<Param> {
    let (key, position) = target.param.as_ref()?;
    Some((program.id(key)?, *position))
}

/// What the table says of the function among the arguments of a call.
pub(super) fn by_table<'a>(program: &Program, site: &'a Site, target: &Target) -> Option<(&'a Argument, Use)> {
    let table = &program.table;
    if let Some(entry) = table.offloads(&target.qual) {
        return Some((entry.function.of(&site.arguments)?, Use::Offloaded(entry.to)));
    }
    if let Some(entry) = table.schedules(&target.qual) {
        return Some((entry.function.of(&site.arguments)?, Use::Scheduled(entry.tag)));
    }
    let entry = table.calls(&target.qual)?;
    Some((entry.function.of(&site.arguments)?, Use::Called(target.certainty)))
}

/// The bodies that a call may run, with the target that leads to each.
fn callees<'a>(program: &Program, classes: &Classes<'_>, site: &'a Site) -> Vec<(u32, &'a Target)> {
    let mut found = vec![];
    for target in &site.targets {
        let direct = target.key.as_ref().and_then(|key| program.id(key));
        found.extend(direct.map(|id| (id, target)));
        let function = direct.map(|id| program.by_id(id));
        if let Some((class, method)) = super::dispatch::method_of(function, &target.qual)
            && classes.is_abstract(class, method)
        {
            let others = classes.others(class, method, |_| true);
            found.extend(others.iter().filter_map(|body| Some((program.id(&body.key)?, target))));
        }
    }
    found
}

/// The functions around a nested one, inside out.
pub(super) fn around<'a>(program: &'a Program, function: &'a Function) -> impl Iterator<Item = u32> + 'a {
    let mut next = function.parent.as_ref();
    std::iter::from_fn(move || {
        let id = program.id(next?)?;
        next = program.by_id(id).parent.as_ref();
        Some(id)
    })
}

/// The argument that a call gives for a parameter of what it calls.
pub(super) fn argument_for<'a>(callee: &Function, param: u32, site: &'a Site, target: &Target) -> Option<&'a Argument> {
    let name = callee.params.get(param as usize);
    let bound = target.bound + u32::from(takes_self(callee));
    let position = param.checked_sub(bound);
    let arguments = &site.arguments;
    arguments
        .iter()
        .find(|argument| argument.keyword.is_some() && argument.keyword.as_ref() == name)
        .or_else(|| arguments.iter().find(|argument| position.is_some() && argument.position == position))
}

/// A method whose first parameter is its receiver.
fn takes_self(function: &Function) -> bool {
    function.kind == FnKind::Method && !function.decorators.iter().any(|decorator| decorator.text == "staticmethod")
}
