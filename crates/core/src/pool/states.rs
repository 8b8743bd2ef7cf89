//! A connection's life as data: every state, and everything that leads from one to another. In debug builds the ledger
//! holds itself to this table, and the picture in the documentation is printed from it.

use std::fmt::Write;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Its connect is running.
    Opening,
    /// Open, and nobody's.
    Idle,
    /// It was idle for long, somebody waits for one, and so its check is running.
    Checking,
    /// A user's, or reserved for a waiter that has been woken.
    InUse,
    /// Its reset is running.
    Resetting,
    /// Its close is running. It still takes room.
    Closing,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [Self::Opening, Self::Idle, Self::Checking, Self::InUse, Self::Resetting, Self::Closing];

    /// The name that users see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Idle => "idle",
            Self::Checking => "checking",
            Self::InUse => "in use",
            Self::Resetting => "resetting",
            Self::Closing => "closing",
        }
    }
}

/// What leads from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Somebody waits for more than is on its way, or fewer than `min_size` are open; and there is room.
    Wanted,
    /// The connect succeeded, the check passed, the reset is done, or a user gave it back.
    Ready,
    /// The connect, the check or the reset failed, a user said that it is broken (or dirty, without a reset), or it has
    /// ended by itself.
    Failed,
    /// Somebody wants one, and this one is handed out.
    Acquired,
    /// Somebody wants one, but this one was idle for longer than `check_after`.
    Stale,
    /// It is idle, and all that are idle are checked.
    Swept,
    /// A user gave it back, and there is a reset.
    Used,
    /// Too old, idle for too long, or told to expire.
    Expired,
    /// More than `max_size` are open and nobody waits (or more than that and `burst`).
    Surplus,
    /// Another key waits for room.
    Evicted,
    /// The pool is closing.
    Drained,
    /// The close has come to an end.
    Closed,
    /// Its hook took too long, or the time to close is over.
    Abandoned,
}

impl Cause {
    /// A few words for a picture.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Acquired => "acquired",
            Self::Stale => "stale",
            Self::Swept => "swept",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Surplus => "surplus",
            Self::Evicted => "evicted",
            Self::Drained => "drained",
            Self::Closed => "closed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// From a state (none: it does not exist yet), by a cause, to another (none: it is gone).
pub type Transition = (Option<State>, Cause, Option<State>);

/// All that can happen to a connection, in the order of its life. (Beside that, a fork or the end of its loop removes
/// it from any state: [`Ledger::abandon_all`](super::Ledger::abandon_all).)
pub const TRANSITIONS: &[Transition] = &{
    use Cause::{
        Abandoned, Acquired, Closed, Drained, Evicted, Expired, Failed, Ready, Stale, Surplus, Swept, Used, Wanted,
    };
    use State::{Checking, Closing, Idle, InUse, Opening, Resetting};
    [
        (None, Wanted, Some(Opening)),
        (Some(Opening), Acquired, Some(InUse)),
        (Some(Opening), Ready, Some(Idle)),
        (Some(Opening), Failed, None),
        (Some(Opening), Abandoned, None),
        (Some(Opening), Expired, Some(Closing)),
        (Some(Opening), Surplus, Some(Closing)),
        (Some(Opening), Drained, Some(Closing)),
        (Some(Idle), Acquired, Some(InUse)),
        (Some(Idle), Stale, Some(Checking)),
        (Some(Idle), Swept, Some(Checking)),
        (Some(Idle), Failed, Some(Closing)),
        (Some(Idle), Expired, Some(Closing)),
        (Some(Idle), Surplus, Some(Closing)),
        (Some(Idle), Evicted, Some(Closing)),
        (Some(Idle), Drained, Some(Closing)),
        (Some(Checking), Acquired, Some(InUse)),
        (Some(Checking), Ready, Some(Idle)),
        (Some(Checking), Failed, Some(Closing)),
        (Some(Checking), Expired, Some(Closing)),
        (Some(Checking), Surplus, Some(Closing)),
        (Some(Checking), Evicted, Some(Closing)),
        (Some(Checking), Drained, Some(Closing)),
        (Some(Checking), Abandoned, None),
        (Some(InUse), Acquired, Some(InUse)),
        (Some(InUse), Ready, Some(Idle)),
        (Some(InUse), Used, Some(Resetting)),
        (Some(InUse), Failed, Some(Closing)),
        (Some(InUse), Expired, Some(Closing)),
        (Some(InUse), Surplus, Some(Closing)),
        (Some(InUse), Evicted, Some(Closing)),
        (Some(InUse), Drained, Some(Closing)),
        (Some(InUse), Abandoned, None),
        (Some(Resetting), Acquired, Some(InUse)),
        (Some(Resetting), Ready, Some(Idle)),
        (Some(Resetting), Failed, Some(Closing)),
        (Some(Resetting), Expired, Some(Closing)),
        (Some(Resetting), Surplus, Some(Closing)),
        (Some(Resetting), Evicted, Some(Closing)),
        (Some(Resetting), Drained, Some(Closing)),
        (Some(Resetting), Abandoned, None),
        (Some(Closing), Closed, None),
        (Some(Closing), Abandoned, None),
    ]
};

/// Whether the table has this transition.
pub(super) fn allowed(from: Option<State>, cause: Cause, to: Option<State>) -> bool {
    TRANSITIONS.contains(&(from, cause, to))
}

/// The table as a Mermaid state diagram, one arrow for each pair of states.
#[must_use]
pub fn mermaid() -> String {
    let id = |state: Option<State>| state.map_or("[*]".to_owned(), |state| state.name().replace(' ', "_"));
    let mut arrows: Vec<(Option<State>, Option<State>, Vec<&str>)> = Vec::new();
    for &(from, cause, to) in TRANSITIONS {
        match arrows.iter_mut().find(|arrow| (arrow.0, arrow.1) == (from, to)) {
            Some(arrow) => arrow.2.push(cause.name()),
            None => arrows.push((from, to, vec![cause.name()])),
        }
    }
    let mut picture = String::from("stateDiagram-v2\n");
    for state in State::ALL.into_iter().filter(|state| state.name().contains(' ')) {
        let _ = writeln!(picture, "    state \"{}\" as {}", state.name(), id(Some(state)));
    }
    for (from, to, causes) in arrows {
        let _ = writeln!(picture, "    {} --> {}: {}", id(from), id(to), causes.join(", "));
    }
    picture
}
