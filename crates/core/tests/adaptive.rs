//! The limit that finds itself, against a simulated server of known capacity: it settles at the knee, gives way when
//! the capacity falls, and comes back.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use loopwright_core::adaptive::{Adaptive, Begun, Config, Outcome, Strategy};
use loopwright_core::rng::Rng;
use proptest::prelude::*;

/// How long the server takes for a call.
#[derive(Clone, Copy, Debug)]
enum Service {
    Constant,
    /// Between half and one and a half of the mean.
    Uniform,
    Exponential,
}

/// A server that works on `capacity` calls at a time, in order; the others wait in its queue. There is always one more
/// call to be made, so the limit is reached at all times.
struct Server {
    capacity: usize,
    seconds: f64,
    service: Service,
    /// Calls beyond this many in the server are refused at once.
    refuses_at: Option<usize>,
    rng: Rng,
    now: f64,
    /// When the calls that it works on end, in nanoseconds.
    works: BinaryHeap<Reverse<(u64, u64)>>,
    queue: VecDeque<u64>,
    begun: std::collections::HashMap<u64, Begun>,
    calls: u64,
    limit: Adaptive,
    served: u64,
    /// (time, limit) after each call.
    trace: Vec<(f64, u32)>,
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
impl Server {
    fn new(capacity: usize, service: Service, seed: u64, config: Config) -> Self {
        Self {
            capacity,
            seconds: 0.1,
            service,
            refuses_at: None,
            rng: Rng::new(seed),
            now: 0.0,
            works: BinaryHeap::new(),
            queue: VecDeque::new(),
            begun: std::collections::HashMap::new(),
            calls: 0,
            limit: Adaptive::new(config),
            served: 0,
            trace: Vec::new(),
        }
    }

    fn service_time(&mut self) -> f64 {
        let unit = self.rng.unit();
        self.seconds
            * match self.service {
                Service::Constant => 1.0,
                Service::Uniform => 0.5 + unit,
                Service::Exponential => -(1.0 - unit).ln(),
            }
    }

    fn fill(&mut self) {
        // Calls, up to the limit.
        while self.limit.in_flight() < self.limit.limit() as usize {
            self.limit.begin(self.now);
            let begun = self.limit.begin_anew(self.now);
            if self.refuses_at.is_some_and(|most| self.works.len() + self.queue.len() >= most) {
                self.limit.ended_of(begun, self.now + 1e-6, Outcome::Overload);
                break; // the next one tries a little later
            }
            self.begun.insert(self.calls, begun);
            self.queue.push_back(self.calls);
            self.calls += 1;
        }
        while self.works.len() < self.capacity {
            let Some(call) = self.queue.pop_front() else { break };
            let ends = self.now + self.service_time();
            self.works.push(Reverse(((ends * 1e9) as u64, call)));
        }
    }

    /// Goes on for so many seconds.
    fn run(&mut self, seconds: f64) {
        let end = self.now + seconds;
        loop {
            self.fill();
            let Some(&Reverse((at, call))) = self.works.peek() else { break };
            if at as f64 / 1e9 > end {
                break;
            }
            self.works.pop();
            self.now = self.now.max(at as f64 / 1e9);
            let begun = self.begun.remove(&call).expect("it began");
            self.limit.ended_of(begun, self.now, Outcome::Served);
            self.served += 1;
            self.trace.push((self.now, self.limit.limit()));
        }
        self.now = end;
    }

    /// The median of the limit over the last so many seconds.
    fn settled(&self, seconds: f64) -> f64 {
        let mut limits: Vec<u32> =
            self.trace.iter().filter(|(at, _)| *at >= self.now - seconds).map(|(_, limit)| *limit).collect();
        limits.sort_unstable();
        f64::from(limits[limits.len() / 2])
    }
}

fn gradient(initial: u32) -> Config {
    Config { strategy: Strategy::Gradient, initial, least: 1, most: 1000, backoff: 0.9 }
}

#[track_caller]
fn assert_at_the_knee(server: &Server, what: &str) {
    #[allow(clippy::cast_precision_loss)]
    let knee = server.capacity as f64;
    let found = server.settled(60.0);
    assert!((found - knee).abs() <= 0.2 * knee, "{what}: {found} at a knee of {knee}: {:?}", server.limit);
}

#[test]
fn it_settles_within_a_fifth_of_the_knee() {
    // The wider delays are spread, the more of them it takes to know their mean.
    for (service, seconds) in [(Service::Constant, 150.0), (Service::Uniform, 150.0), (Service::Exponential, 600.0)] {
        for capacity in [4, 20] {
            for initial in [1, 60] {
                let mut server = Server::new(capacity, service, 1, gradient(initial));
                server.run(seconds);
                assert_at_the_knee(&server, &format!("{service:?}, from {initial}"));
            }
        }
    }
}

#[test]
fn it_gives_way_when_the_capacity_halves_and_recovers() {
    for (service, seconds) in [(Service::Constant, 150.0), (Service::Uniform, 150.0), (Service::Exponential, 600.0)] {
        for capacity in [8, 20] {
            let mut server = Server::new(capacity, service, 3, gradient(10));
            for (part, stage) in [(1, "before"), (2, "half of it"), (1, "all of it again")] {
                server.capacity = capacity / part;
                server.run(seconds);
                assert_at_the_knee(&server, &format!("{service:?}, {stage}"));
            }
        }
    }
}

#[test]
fn a_server_that_becomes_slower_or_faster_keeps_its_knee() {
    for (seed, factor) in [(1, 3.0), (2, 1.0 / 3.0)] {
        let mut server = Server::new(40, Service::Uniform, seed, gradient(10));
        server.run(120.0);
        server.seconds *= factor;
        server.run(240.0);
        assert_at_the_knee(&server, &format!("{factor} times as slow"));
    }
}

#[test]
fn the_server_is_never_idle_for_long() {
    let mut server = Server::new(40, Service::Exponential, 7, gradient(10));
    server.run(60.0);
    let before = server.served;
    server.run(120.0);
    let possible = 40.0 / 0.1 * 120.0;
    #[allow(clippy::cast_precision_loss)]
    let share = (server.served - before) as f64 / possible;
    assert!(share > 0.9, "{share}");
}

#[test]
fn aimd_stays_below_what_the_server_refuses() {
    for capacity in [10, 40, 120] {
        let config = Config { strategy: Strategy::Aimd { target: None }, ..gradient(4) };
        let mut server = Server::new(capacity, Service::Uniform, 3, config);
        server.refuses_at = Some(capacity);
        server.run(120.0);
        assert_at_the_knee(&server, "refusing");
        server.capacity /= 2;
        server.refuses_at = Some(capacity / 2);
        server.run(120.0);
        assert_at_the_knee(&server, "refusing, half of it");
    }
}

#[test]
fn aimd_with_a_target_settles_where_the_delay_is_the_target() {
    let config = Config { strategy: Strategy::Aimd { target: Some(0.11) }, ..gradient(4) };
    let mut server = Server::new(40, Service::Constant, 5, config);
    server.run(300.0);
    assert_at_the_knee(&server, "target");
}

#[test]
fn a_limit_that_is_not_reached_does_not_grow() {
    let mut limit = Adaptive::new(gradient(10));
    for second in 0..10_000 {
        let now = f64::from(second);
        limit.begin(now);
        limit.begin(now);
        limit.ended(now + 0.5, Outcome::Served);
        limit.ended(now + 0.5, Outcome::Served);
    }
    assert_eq!(limit.limit(), 10);
    assert!(limit.windows() > 100);
}

#[test]
fn one_overload_takes_one_share_away_however_many_calls_it_refuses() {
    let mut limit = Adaptive::new(gradient(100));
    (0..100).for_each(|_| limit.begin(0.0));
    (0..100).for_each(|_| limit.ended(1.0, Outcome::Overload));
    assert_eq!((limit.limit(), limit.overloads()), (90, 100));
}

#[test]
fn what_is_ignored_teaches_nothing() {
    let mut limit = Adaptive::new(gradient(10));
    for _ in 0..1000 {
        limit.begin(0.0);
        limit.ended(9.0, Outcome::Ignored);
    }
    assert_eq!((limit.limit(), limit.windows(), limit.base()), (10, 0, None));
}

proptest! {
    #[test]
    fn the_limit_stays_between_its_bounds_and_every_call_is_counted_whatever_happens(
        least in 1_u32..5, more in 0_u32..50, span in 0_u32..100, aimd in any::<bool>(),
        events in prop::collection::vec((0_u8..6, 0.0_f64..100.0), 1..2000),
    ) {
        let strategy = if aimd { Strategy::Aimd { target: Some(20.0) } } else { Strategy::Gradient };
        let config = Config { strategy, initial: least + more, least, most: least + more + span, backoff: 0.9 };
        let mut limit = Adaptive::new(config);
        let (mut plain, mut known) = (0_usize, Vec::new());
        for (event, now) in events { // the clock jumps back and forth
            match event {
                0 | 1 => { limit.begin(now); plain += 1; }
                2 if plain > 0 => { known.push(limit.begin_anew(now)); plain -= 1; }
                3 if plain > 0 => { limit.ended(now, Outcome::Served); plain -= 1; }
                4 => if let Some(begun) = known.pop() { limit.ended_of(begun, now, Outcome::Served); },
                5 if plain > 0 => { limit.ended(now, Outcome::Overload); plain -= 1; }
                _ => {}
            }
            prop_assert_eq!(limit.in_flight(), plain + known.len());
            prop_assert!((config.least..=config.most).contains(&limit.limit()));
            prop_assert!(limit.base().is_none_or(|base| base >= 0.0 && base.is_finite()));
        }
    }
}
