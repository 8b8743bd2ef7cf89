//! Tests of the graph on facts made by hand: each is one thing that real code does.

use super::testing::{Build, BuildSite, World, call, coroutine, def, key, named, param, to};
use super::{Below, Channel, How, Program};
use crate::effects::Elsewhere;
use crate::facts::{Certainty, Guard, SiteKind, Target};
use crate::finding::{Level, Tag};

fn sleep() -> crate::facts::Site {
    call("time.sleep", vec![named("time.sleep")])
}

/// `function: the names of what is called, from the coroutine down`, one line for each root.
fn roots(program: &Program) -> Vec<String> {
    let show = |root: &super::Root| {
        let names: Vec<&str> = root.steps.iter().map(|step| step.calls.as_str()).collect();
        let entry = &program.function(&root.entry).unwrap().qual;
        format!("{}: {entry} -> {}", program.function(&root.function).unwrap().qual, names.join(" -> "))
    };
    program.roots().iter().filter(|root| root.channel != Channel::Gil).map(show).collect()
}

fn handler(target: Target) -> crate::facts::Function {
    coroutine("app.handler").calls(call("f", vec![target]))
}

#[test]
fn a_chain_is_one_root_with_its_callers_folded() {
    let program = World::new()
        .with(handler(to("app.service")))
        .with(coroutine("app.other").calls(call("service", vec![to("app.service")])))
        .with(def("app.service").calls(call("load", vec![to("app.load")])))
        .with(def("app.load").calls(sleep()))
        .program();
    let found = program.roots();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].function, key("app.load"));
    assert_eq!(found[0].level, Level::Certain);
    assert_eq!((found[0].steps.len(), found[0].depth, found[0].callers.len()), (3, 2, 1));
    assert!(program.on_loop(&key("app.load")));
}

#[test]
fn plain_functions_that_no_coroutine_calls_are_not_on_the_loop() {
    let program = World::new().with(def("app.load").calls(sleep())).program();
    assert!(program.roots().is_empty());
    assert!(!program.on_loop(&key("app.load")));
}

#[test]
fn a_coroutine_that_is_awaited_is_a_root_of_its_own() {
    let program = World::new()
        .with(coroutine("app.handler").calls(call("load", vec![to("async app.load")]).awaited()))
        .with(coroutine("app.load").calls(sleep()))
        .program();
    assert_eq!(roots(&program), ["app.load: app.load -> time.sleep"]);
    assert_eq!(program.roots()[0].callers, [key("app.handler")]);
}

#[test]
fn the_root_of_a_dependency_is_the_call_into_it() {
    let program = World::new()
        .with(handler(to("app.load")))
        .with(def("app.load").calls(call("dep.get", vec![to("dep.get")])))
        .with(def("dep.get").calls(call("inner", vec![to("dep.inner")])))
        .with(def("dep.inner").calls(sleep()))
        .program();
    assert_eq!(roots(&program), ["app.load: app.handler -> app.load -> dep.get -> dep.inner -> time.sleep"]);
    assert_eq!(program.roots()[0].dependency.as_deref(), Some("dep.get"));
}

#[test]
fn offloaded_functions_do_not_block() {
    let program = World::new()
        .with(coroutine("app.handler").calls(
            call("to_thread", vec![named("asyncio.threads.to_thread")]).given(0, vec![to("app.load")]).awaited(),
        ))
        .with(def("app.load").calls(sleep()))
        .program();
    assert!(program.roots().is_empty());
    let sent = program.offloaded(&key("app.handler"));
    assert_eq!((sent.len(), sent[0].to), (1, Elsewhere::Thread));
}

#[test]
fn what_is_guarded_is_not_reached() {
    let program = World::new()
        .with(handler(to("app.load")))
        .with(def("app.load").calls(sleep().guard(Guard::NoRunningLoop)))
        .program();
    assert!(program.roots().is_empty());
}

#[test]
fn arguments_are_followed_where_they_are_given() {
    let program = World::new()
        .with(coroutine("app.good").calls(call("apply", vec![to("app.apply")]).given(0, vec![to("app.harmless")])))
        .with(coroutine("app.bad").calls(call("apply", vec![to("app.apply")]).given(0, vec![to("app.load")])))
        .with(
            def("app.apply")
                .params(&["fn"])
                .calls(call("run", vec![to("app.run")]).given(1, vec![param("app.apply", 0)])),
        )
        .with(def("app.run").params(&["name", "fn"]).calls(call("fn", vec![param("app.run", 1)])))
        .with(def("app.harmless"))
        .with(def("app.load").calls(sleep()))
        .program();
    assert_eq!(roots(&program), ["app.load: app.bad -> app.apply -> app.run -> app.load -> time.sleep"]);
    assert!(program.roots()[0].callers.is_empty());
}

#[test]
fn a_blocking_name_that_is_handed_over_blocks_where_it_is_given() {
    let program = World::new()
        .with(coroutine("app.handler").calls(call("apply", vec![to("app.apply")]).given(0, vec![named("time.sleep")])))
        .with(def("app.apply").params(&["fn"]).calls(call("fn", vec![param("app.apply", 0)])))
        .program();
    assert_eq!(roots(&program), ["app.handler: app.handler -> app.apply -> time.sleep"]);
}

#[test]
fn the_only_implementation_of_an_abstract_method_is_certain() {
    let world = |implementations: &[&str]| {
        let mut world = World::new()
            .class("app.Store", &["abc.ABC"], false, &["~get"])
            .with(handler(Target { body: false, ..to("app.Store.get") }))
            .with(def("app.Store.get"));
        for class in implementations {
            world =
                world.class(class, &["app.Store"], false, &["get"]).with(def(&format!("{class}.get")).calls(sleep()));
        }
        world.program()
    };
    let one = world(&["app.Disk"]);
    assert_eq!(one.roots()[0].level, Level::Certain);
    assert_eq!(one.roots()[0].steps[0].how, How::OnlyImplementation);
    let two = world(&["app.Disk", "app.Tape"]);
    assert_eq!(two.roots().iter().map(|root| root.level).collect::<Vec<_>>(), [Level::Likely, Level::Likely]);
}

#[test]
fn classes_fit_a_protocol_without_naming_it() {
    let program = World::new()
        .class("app.Loads", &["typing.Protocol"], true, &["~load", "~close"])
        .class("app.Disk", &[], false, &["load", "close"])
        .class("app.Half", &[], false, &["load"])
        .with(handler(Target { body: false, ..to("app.Loads.load") }))
        .with(def("app.Loads.load"))
        .with(def("app.Disk.load").calls(sleep()))
        .with(def("app.Half.load").calls(sleep()))
        .program();
    assert_eq!(roots(&program), ["app.Disk.load: app.handler -> app.Disk.load -> time.sleep"]);
}

#[test]
fn wrappers_of_decorators_let_the_function_through_or_send_it_away() {
    let decorated = |wrapper: crate::facts::Function| {
        World::new()
            .with(handler(to("app.load")))
            .with(def("app.deco").params(&["fn"]).gives(to("app.deco.wrapper")))
            .with(wrapper.inside("app.deco"))
            .with(def("app.load").under("deco", vec![to("app.deco")]).calls(sleep()))
            .program()
    };
    let calls = decorated(def("app.deco.wrapper").calls(call("fn", vec![param("app.deco", 0)])));
    assert_eq!(roots(&calls), ["app.load: app.handler -> app.deco.wrapper -> app.load -> time.sleep"]);
    let thread = call("to_thread", vec![named("asyncio.threads.to_thread")]);
    let sends = decorated(def("app.deco.wrapper").calls(thread.given(0, vec![param("app.deco", 0)])));
    assert!(sends.roots().is_empty());
    let drops = decorated(def("app.deco.wrapper"));
    assert!(drops.roots().is_empty());
    let coroutine = decorated(coroutine("app.deco.wrapper").calls(call("fn", vec![param("app.deco", 0)])));
    assert_eq!(roots(&coroutine), ["app.load: app.deco.wrapper -> app.load -> time.sleep"]);
}

#[test]
fn decorators_that_nobody_knows_make_it_likely_and_an_await_of_their_result_makes_it_nothing() {
    let world = |site: crate::facts::Site| {
        World::new()
            .with(coroutine("app.handler").calls(site))
            .with(def("app.load").under("mystery", vec![]).calls(sleep()))
            .program()
    };
    let plain = world(call("load", vec![to("app.load")]));
    assert_eq!(plain.roots()[0].level, Level::Likely);
    assert!(world(call("load", vec![to("app.load")]).awaited()).roots().is_empty());
}

#[test]
fn generators_run_where_they_are_iterated() {
    let world = |kind| {
        World::new()
            .with(coroutine("app.handler").calls(call("rows", vec![to("app.rows")]).kind(kind)))
            .with(def("app.rows").generator().calls(sleep()))
            .program()
    };
    assert!(world(SiteKind::Call).roots().is_empty());
    assert_eq!(world(SiteKind::Iterate).roots().len(), 1);
}

#[test]
fn callbacks_of_the_loop_are_reached_without_a_coroutine() {
    let program = World::new()
        .with(
            coroutine("app.handler").calls(
                call("loop.call_soon", vec![named("asyncio.base_events.BaseEventLoop.call_soon")])
                    .given(0, vec![to("app.tick")]),
            ),
        )
        .with(def("app.tick").calls(sleep()))
        .program();
    let root = &program.roots()[0];
    assert!(root.callback);
    assert!(root.tags.contains(&Tag::Callback), "{:?}", root.tags);
}

#[test]
fn a_likely_step_makes_the_whole_chain_likely() {
    let program = World::new()
        .with(handler(Target { certainty: Certainty::Likely, ..to("app.load") }))
        .with(def("app.load").calls(sleep()))
        .program();
    assert_eq!(program.roots()[0].level, Level::Likely);
}

#[test]
fn tags_come_down_over_awaits_and_calls() {
    let program = World::new()
        .with(coroutine("app.handler").calls(call("step", vec![to("async app.step")]).awaited().holding("self.lock")))
        .with(coroutine("app.step").calls(call("load", vec![to("app.load")])))
        .with(def("app.load").calls(sleep()))
        .program();
    assert_eq!(program.roots()[0].tags, [Tag::UnderLock, Tag::Library]);
    assert!(!program.roots()[0].quiet);
}

#[test]
fn calls_of_one_kind_in_one_function_are_one_finding() {
    let program = World::new()
        .with(handler(to("app.load")))
        .with(def("app.load").calls(sleep()).calls(sleep()).calls(call("input", vec![named("builtins.input")])))
        .program();
    assert_eq!(program.roots().len(), 2);
    assert_eq!(program.roots()[0].also, [1]);
}

#[test]
fn what_is_below_can_be_asked_for() {
    let program = World::new()
        .with(coroutine("app.handler").calls(call("step", vec![to("async app.step")]).awaited()))
        .with(coroutine("app.step").calls(call("load", vec![to("app.load")]).holding("LOCK")))
        .with(def("app.load"))
        .with(coroutine("app.waits").calls(call("other", vec![named("aiohttp.get")]).awaited()))
        .program();
    let is_load = |_: &crate::facts::Function, site: &crate::facts::Site| site.text == "load";
    assert!(program.reaches(&key("app.handler"), Below::Calls, is_load).is_none());
    assert_eq!(program.reaches(&key("app.handler"), Below::Awaits, is_load).unwrap().len(), 2);
    assert!(!program.suspends(&key("app.handler")));
    assert!(program.suspends(&key("app.waits")));
    assert_eq!(program.locks_below(&key("app.handler"), Below::Awaits).len(), 1);
}

#[test]
fn an_explanation_tells_every_path_and_what_is_unknown() {
    let program = World::new()
        .with(handler(to("app.load")).calls(call("thing.go", vec![])))
        .with(def("app.load").calls(sleep()))
        .program();
    let explained = super::explain::explain(&program, "handler").unwrap();
    expect_test::expect![[r#"
        async def app.handler (/project/app.py:1)
          blocks the event loop: `time.sleep`; of one call nothing is known
          on the loop: a coroutine
          circumstances: library
            10  f(...)
                ! `app.load` runs here
                    10  time.sleep(...)
                        ! `time.sleep` blocks: it sleeps
            11  thing.go(...)
                - unknown: nothing tells what this is
    "#]]
    .assert_eq(&explained.to_string());
    assert_eq!(explained.unknown, 1);
    assert!(super::explain::explain(&program, "nobody").unwrap_err().contains("no function `nobody`"));
}
