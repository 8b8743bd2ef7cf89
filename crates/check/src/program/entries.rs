//! What the loop itself runs: coroutines, its callbacks, and what frameworks call on its thread.

use super::Program;
use super::decorators;
use super::dispatch::Classes;
use crate::effects::DecoratorKind;
use crate::facts::{Certainty, FnKind, Function};
use crate::finding::Tag;

/// A function that the loop runs.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its number.
    pub id: u32,
    /// It is no coroutine: a callback of the loop, or a handler that is called on its thread.
    pub callback: bool,
    /// How sure it is that the loop runs it.
    pub certainty: Certainty,
    /// Its own circumstances.
    pub tags: Vec<Tag>,
}

/// Methods that frameworks call on classes derived from theirs: the base, the methods (a `*` at the end stands for
/// anything), the circumstances, and whether plain functions among them run on the loop's thread too.
const METHODS: [(&str, &[&str], Tag, bool); 17] = [
    (
        "asyncio.protocols.BaseProtocol",
        &[
            "connection_made",
            "connection_lost",
            "data_received",
            "eof_received",
            "pause_writing",
            "resume_writing",
            "get_buffer",
            "buffer_updated",
            "datagram_received",
            "error_received",
            "pipe_data_received",
            "pipe_connection_lost",
            "process_exited",
        ],
        Tag::Callback,
        true,
    ),
    ("aiohttp.web_urldispatcher.View", &["get", "post", "put", "patch", "delete", "head"], Tag::Handler, false),
    ("aiohttp.web.View", &["get", "post", "put", "patch", "delete", "head"], Tag::Handler, false),
    (
        "starlette.endpoints.HTTPEndpoint",
        &["get", "post", "put", "patch", "delete", "head", "dispatch"],
        Tag::Handler,
        false,
    ),
    ("starlette.endpoints.WebSocketEndpoint", &["on_*"], Tag::Handler, false),
    ("starlette.middleware.base.BaseHTTPMiddleware", &["dispatch"], Tag::Handler, false),
    ("tornado.web.RequestHandler", &["get", "post", "put", "patch", "delete", "head", "prepare"], Tag::Handler, true),
    ("discord.client.Client", &["on_*"], Tag::Handler, false),
    ("discord.Client", &["on_*"], Tag::Handler, false),
    ("discord.ext.commands.bot.Bot", &["on_*"], Tag::Handler, false),
    ("discord.ext.commands.Bot", &["on_*"], Tag::Handler, false),
    ("homeassistant.helpers.entity.Entity", &["async_*"], Tag::Handler, false),
    ("homeassistant.config_entries.ConfigFlow", &["async_step_*"], Tag::Handler, false),
    ("homeassistant.components.http.HomeAssistantView", &["get", "post", "put", "delete"], Tag::Handler, false),
    ("homeassistant.helpers.http.HomeAssistantView", &["get", "post", "put", "delete"], Tag::Handler, false),
    ("homeassistant.helpers.update_coordinator.DataUpdateCoordinator", &["_async_update_data"], Tag::Task, false),
    ("django.views.generic.base.View", &["get", "post", "put", "patch", "delete", "head"], Tag::Handler, false),
];

/// Protocols by the names under which they are imported.
const PROTOCOLS: [&str; 6] =
    ["Protocol", "BaseProtocol", "BufferedProtocol", "DatagramProtocol", "SubprocessProtocol", "StreamReaderProtocol"];

/// Everything that the loop runs, by number.
pub(super) fn find(program: &Program) -> Vec<Entry> {
    let classes = Classes::new(&program.classes);
    let mut entries = vec![];
    let mut scheduled: Vec<Vec<Tag>> = vec![vec![]; program.keys.len()];
    let mut plain: Vec<Option<Certainty>> = vec![None; program.keys.len()];
    for node in &program.nodes {
        for given in &node.scheduled {
            if let Some(id) = given.target.key.as_ref().and_then(|key| program.id(key)) {
                if !program.by_id(id).is_async {
                    plain[id as usize] = plain[id as usize].max(Some(given.target.certainty));
                }
                if !scheduled[id as usize].contains(&given.tag) {
                    scheduled[id as usize].push(given.tag);
                }
            }
        }
    }
    for id in 0..program.keys.len() as u32 {
        let function = program.by_id(id);
        if !program.owned[id as usize] || function.kind == FnKind::Module {
            continue;
        }
        let mut tags = std::mem::take(&mut scheduled[id as usize]);
        let mut callback = plain[id as usize].is_some();
        let mut certainty = plain[id as usize].unwrap_or(Certainty::Certain);
        if let Some((tag, on_loop)) = by_decorator(program, function).or_else(|| by_class(&classes, function)) {
            tags.push(tag);
            if on_loop && !function.is_async {
                (callback, certainty) = (true, Certainty::Certain);
            }
        }
        if is_asgi(function) {
            tags.push(Tag::Handler);
        }
        if function.is_async || callback {
            entries.push(Entry { id, callback: callback && !function.is_async, certainty, tags });
        }
    }
    entries
}

fn by_decorator(program: &Program, function: &Function) -> Option<(Tag, bool)> {
    function.decorators.iter().find_map(|decorator| match decorators::known(program, decorator)? {
        DecoratorKind::Handler { tag, threaded } => {
            // A command of a command line is called by nobody's loop.
            let on_loop = !threaded && !matches!(tag, Tag::Cli | Tag::Test);
            Some((tag, on_loop))
        }
        _ => None,
    })
}

fn by_class(classes: &Classes<'_>, function: &Function) -> Option<(Tag, bool)> {
    let ancestors = classes.ancestors(function.class.as_deref()?);
    METHODS.iter().find_map(|(base, methods, tag, on_loop)| {
        let ours = methods.iter().any(|method| match method.strip_suffix('*') {
            Some(start) => function.name.starts_with(start),
            None => function.name == *method,
        });
        let derived = ours && ancestors.iter().any(|name| name == base || protocol(name) == Some(base));
        derived.then_some((*tag, *on_loop))
    })
}

/// The base of all of asyncio's protocols, for each of them.
fn protocol(name: &str) -> Option<&'static str> {
    let rest = name.strip_prefix("asyncio.")?;
    let rest = rest.strip_prefix("protocols.").unwrap_or(rest);
    PROTOCOLS.contains(&rest).then_some("asyncio.protocols.BaseProtocol")
}

/// `async def app(scope, receive, send)`, also as a method.
fn is_asgi(function: &Function) -> bool {
    function.is_async && function.params.ends_with(&["scope".into(), "receive".into(), "send".into()])
}
