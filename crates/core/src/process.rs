//! Process: the end of a child process and of the group it leads, as a state machine.
//!
//! ```text
//!            exited + closed: probe ──gone──────────────────────────────┐
//!               │  └──alive──┐                                          v
//!  Running ─────┴──end───────┴──> Asked (TERM) ──kill_after──> Killed ──> Over
//!                                   └──────── exited + gone ───────┴──────^
//! ```
//!
//! The machine decides when the group is asked to end, when it is killed, when to look whether it is gone, and when
//! nobody waits any longer. It never sees a process: the caller sends what signal it is told to, looks when it is told
//! to (*probe*: is anybody of the group alive, zombies not counted?), and calls again at the time it is told.
//!
//! Guarantees, whatever order the events come in:
//!
//! * without [`Life::end`] nothing is signalled before the command itself has exited and every output has closed;
//! * from [`Life::end`] on it is over after `kill_after + give_up` seconds at most, whatever the processes do;
//! * KILL comes `kill_after` seconds after TERM, not earlier, unless `kill_after` is 0: then there is no TERM;
//! * a group that was found to be gone is never signalled again: its number may be somebody else's by then.

/// The first pause between two looks at a group that ends, in seconds; each further one is twice as long.
const FIRST_LOOK: f64 = 0.001;

/// The longest such pause.
const LAST_LOOK: f64 = 0.05;

/// How a group is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// So that it can clean up. One that was stopped has to be continued to hear it.
    Term,
    /// So that it ends.
    Kill,
}

/// What to do after an event, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Orders {
    /// Send this to the whole group.
    pub signal: Option<Signal>,
    /// Look whether anybody of the group is alive, and report [`Life::probed`].
    pub probe: bool,
    /// Call [`Life::tick`] at that time; the one asked for before is off.
    pub wake_at: Option<f64>,
    /// Nothing is to be waited for any more: take what is left in the outputs and close them.
    pub over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Asked,
    Killed,
    Over,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Life {
    kill_after: f64,
    give_up: f64,
    linger: f64,
    phase: Phase,
    exited: bool,
    closed: bool,
    abandoned: bool,
    /// When the phase ends, whatever happens.
    until: f64,
    /// The pause before the next look.
    pause: f64,
}

impl Life {
    /// A command that has just been started.
    ///
    /// `kill_after`: seconds from TERM to KILL. `give_up`: seconds after KILL until nobody waits any longer. `linger`:
    /// seconds that others of the group may hold an output once the command has exited; infinite: as long as they like.
    pub fn new(kill_after: f64, give_up: f64, linger: f64) -> Self {
        Self {
            kill_after,
            give_up,
            linger,
            phase: Phase::Running,
            exited: false,
            closed: false,
            abandoned: false,
            until: f64::INFINITY,
            pause: FIRST_LOOK,
        }
    }

    /// The command itself has exited.
    pub fn exited(&mut self, now: f64) -> Orders {
        self.exited = true;
        match self.phase {
            Phase::Running if self.closed => Orders { probe: true, ..Orders::default() },
            Phase::Running => {
                self.until = now + self.linger;
                Orders { wake_at: self.until.is_finite().then_some(self.until), ..Orders::default() }
            }
            Phase::Asked | Phase::Killed => Orders { probe: true, ..Orders::default() },
            Phase::Over => Orders::default(),
        }
    }

    /// The last output has closed: nobody holds its other end.
    pub fn closed(&mut self) -> Orders {
        self.closed = true;
        Orders { probe: self.phase == Phase::Running && self.exited, ..Orders::default() }
    }

    /// It has to end: a deadline, a cancel, an error, a block that was left.
    pub fn end(&mut self, now: f64) -> Orders {
        match self.phase {
            Phase::Running if self.kill_after > 0.0 => {
                self.phase = Phase::Asked;
                self.until = now + self.kill_after;
                self.pause = FIRST_LOOK;
                self.next(Some(Signal::Term), now)
            }
            Phase::Running => self.kill(now),
            Phase::Asked | Phase::Killed | Phase::Over => Orders::default(),
        }
    }

    /// It has to end at once.
    pub fn kill(&mut self, now: f64) -> Orders {
        if matches!(self.phase, Phase::Killed | Phase::Over) {
            return Orders::default();
        }
        self.phase = Phase::Killed;
        self.until = now + self.give_up;
        self.pause = FIRST_LOOK;
        self.next(Some(Signal::Kill), now)
    }

    /// The answer to a probe.
    pub fn probed(&mut self, alive: bool, now: f64) -> Orders {
        match (self.phase, alive) {
            (Phase::Over, _) => Orders::default(),
            (_, false) if self.exited => self.over(),
            (Phase::Running, _) => self.end(now),
            (Phase::Asked | Phase::Killed, _) => {
                self.pause = (self.pause * 2.0).min(LAST_LOOK);
                self.next(None, now)
            }
        }
    }

    /// The time that was asked for has come, or any other.
    pub fn tick(&mut self, now: f64) -> Orders {
        match self.phase {
            Phase::Running if self.exited && !self.closed && now >= self.until => self.end(now),
            Phase::Asked if now >= self.until => self.kill(now),
            Phase::Killed if now >= self.until => {
                self.abandoned = true;
                self.over()
            }
            Phase::Asked | Phase::Killed if self.exited => Orders { probe: true, ..Orders::default() },
            _ => self.next(None, now),
        }
    }

    /// When to look next: soon while only others of the group live, else when the phase is over.
    fn next(&self, signal: Option<Signal>, now: f64) -> Orders {
        let look = if self.exited && self.phase != Phase::Running { now + self.pause } else { f64::INFINITY };
        let at = self.until.min(look);
        Orders { signal, wake_at: at.is_finite().then_some(at), ..Orders::default() }
    }

    fn over(&mut self) -> Orders {
        self.phase = Phase::Over;
        Orders { over: true, ..Orders::default() }
    }

    /// Nothing is waited for any more.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Nobody has asked it to end.
    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// The command, or somebody of its group, outlived KILL for `give_up` seconds.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned
    }
}
