//! The end of a process against a simulated one that does anything: it is over in bounded time, nobody is signalled
//! without need, KILL is not early, and what is gone is left alone.

use loopwright_core::process::{Life, Orders, Signal};
use proptest::prelude::*;

const GIVE_UP: f64 = 5.0;

#[derive(Clone, Debug)]
struct Child {
    /// When the command exits by itself, and how long after a TERM it does; `None`: it ignores that.
    exits: Option<f64>,
    heeds: Option<f64>,
    /// The same for another one of its group, which may hold the outputs.
    other_exits: Option<f64>,
    other_heeds: Option<f64>,
    holds: bool,
    /// They cannot be killed: they hang in the kernel, or are somebody else's.
    immortal: bool,
    kill_after: f64,
    linger: f64,
    /// When it is asked to end.
    end: Option<f64>,
}

fn time() -> impl Strategy<Value = f64> {
    (0_u32..200).prop_map(|n| f64::from(n) * 0.037)
}

fn child() -> impl Strategy<Value = Child> {
    let heeds = || prop::option::of((0_u32..50).prop_map(|n| f64::from(n) * 0.09));
    (
        (prop::option::of(time()), heeds(), prop::option::of(time()), heeds()),
        (any::<bool>(), prop::bool::weighted(0.1)),
        prop_oneof![Just(0.0), Just(0.5), Just(2.0)],
        prop_oneof![Just(f64::INFINITY), Just(0.0), Just(1.0)],
        prop::option::of(time()),
    )
        .prop_map(|((exits, heeds, other_exits, other_heeds), (holds, immortal), kill_after, linger, end)| Child {
            exits,
            heeds,
            other_exits,
            other_heeds,
            holds,
            immortal,
            kill_after,
            linger,
            end,
        })
}

/// The earlier of two times, if there is any.
fn sooner(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

struct World {
    child: Child,
    life: Life,
    now: f64,
    wake_at: Option<f64>,
    term_at: Option<f64>,
    kill_at: Option<f64>,
    found_gone: bool,
    over_at: Option<f64>,
}

impl World {
    /// When a process ends, as things stand.
    fn dies(&self, exits: Option<f64>, heeds: Option<f64>) -> Option<f64> {
        if self.child.immortal {
            return exits;
        }
        let heeded = self.term_at.and_then(|at| heeds.map(|after| at + after));
        sooner(exits, sooner(heeded, self.kill_at))
    }

    fn command(&self) -> Option<f64> {
        self.dies(self.child.exits, self.child.heeds)
    }

    fn other(&self) -> Option<f64> {
        self.dies(self.child.other_exits, self.child.other_heeds)
    }

    fn all_gone(&self) -> Option<f64> {
        self.command().zip(self.other()).map(|(a, b)| a.max(b))
    }

    fn outputs_close(&self) -> Option<f64> {
        if self.child.holds { self.all_gone() } else { self.command() }
    }

    fn carry_out(&mut self, mut orders: Orders) -> Result<(), TestCaseError> {
        loop {
            prop_assert!(self.over_at.is_none() || orders == Orders::default(), "nothing happens after the end");
            match orders.signal {
                Some(signal) => {
                    prop_assert!(!self.found_gone, "what is gone is left alone");
                    match signal {
                        Signal::Term => {
                            prop_assert!(self.term_at.is_none() && self.kill_at.is_none());
                            prop_assert!(self.child.kill_after > 0.0);
                            self.term_at = Some(self.now);
                        }
                        Signal::Kill => {
                            prop_assert!(self.kill_at.is_none());
                            if self.child.kill_after > 0.0 {
                                let term = self.term_at.expect("KILL comes after TERM");
                                prop_assert!(self.now >= term + self.child.kill_after, "KILL is early");
                            }
                            self.kill_at = Some(self.now);
                        }
                    }
                    let asked = self.child.end.is_some_and(|end| self.now >= end);
                    let exited = self.command().is_some_and(|at| at <= self.now);
                    prop_assert!(asked || exited, "signalled without need");
                }
                None if orders.over => {
                    self.over_at = Some(self.now);
                    prop_assert!(self.found_gone || self.life.is_abandoned());
                    return Ok(());
                }
                None => {}
            }
            if orders.wake_at.is_some() {
                self.wake_at = orders.wake_at;
            }
            if !orders.probe {
                return Ok(());
            }
            let alive = self.all_gone().is_none_or(|at| at > self.now);
            self.found_gone = !alive;
            orders = self.life.probed(alive, self.now);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn it_is_over_in_bounded_time_and_nobody_is_signalled_without_need(child in child()) {
        let end = child.end;
        let mut world = World {
            life: Life::new(child.kill_after, GIVE_UP, child.linger),
            child,
            now: 0.0,
            wake_at: None,
            term_at: None,
            kill_at: None,
            found_gone: false,
            over_at: None,
        };
        let (mut exited, mut closed, mut ended) = (false, false, false);
        for step in 0.. {
            prop_assert!(step < 1000, "it goes round in circles");
            if world.over_at.is_some() {
                break;
            }
            let next_exit = (!exited).then(|| world.command()).flatten();
            let next_close = (!closed).then(|| world.outputs_close()).flatten();
            let next_end = if ended { None } else { end };
            let next = [next_exit, next_close, next_end, world.wake_at].into_iter().fold(None, sooner);
            let Some(next) = next else {
                // Nothing will ever happen: only while nobody asked and the command or who holds its outputs lives on.
                prop_assert!(!ended && (!exited || !closed) && !world.life.is_over());
                break;
            };
            world.now = world.now.max(next);
            let now = world.now;
            let orders = if next_exit.is_some_and(|at| at <= now) {
                exited = true;
                world.life.exited(now)
            } else if next_close.is_some_and(|at| at <= now) {
                closed = true;
                world.life.closed()
            } else if next_end.is_some_and(|at| at <= now) {
                ended = true;
                world.life.end(now)
            } else {
                world.wake_at = None;
                world.life.tick(now)
            };
            world.carry_out(orders)?;
        }
        if let (Some(end), Some(over)) = (end, world.over_at) {
            prop_assert!(over <= end + world.child.kill_after + GIVE_UP + 0.001);
        }
        if end.is_some() {
            prop_assert!(world.over_at.is_some());
        }
        if world.child.immortal && world.life.is_abandoned() {
            prop_assert!(world.all_gone().is_none_or(|at| at > world.over_at.unwrap() - 0.051));
        }
        if world.over_at.is_some() && !world.child.immortal {
            prop_assert!(!world.life.is_abandoned(), "KILL ends whoever can be killed");
            prop_assert!(world.found_gone);
        }
    }
}
