//! What a ledger has in its books, in numbers.

/// A picture of one moment, and totals since the beginning.
///
/// Always: `opened - closed - abandoned == idle + checking + in_use + resetting + closing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open, and nobody's.
    pub idle: usize,
    /// Being opened.
    pub opening: usize,
    /// Being checked before a use.
    pub checking: usize,
    /// In use, or granted to a waiter that has yet to run.
    pub in_use: usize,
    /// Being reset after a use.
    pub resetting: usize,
    /// Being closed.
    pub closing: usize,
    /// Waiters in line.
    pub waiting: usize,
    /// Keys that are known. The pinned one is.
    pub keys: usize,
    /// Connects that succeeded.
    pub opened: u64,
    /// Connections whose close has come to an end, well or not.
    pub closed: u64,
    /// Open connections that were given up: a hook took too long, the time to close was over, or their loop was gone.
    pub abandoned: u64,
    /// Connects that were given up. They never count as opened.
    pub abandoned_connects: u64,
    /// Connections handed to a user.
    pub acquired: u64,
    /// Users that had to join a line for one.
    pub waited: u64,
    /// Waiters whose time was up.
    pub timeouts: u64,
    /// Waiters and newcomers that were refused for another reason.
    pub refused: u64,
    /// Connects that failed.
    pub connect_failures: u64,
    /// Checks that failed.
    pub check_failures: u64,
    /// Resets that failed.
    pub reset_failures: u64,
    /// Closes that failed.
    pub close_failures: u64,
    /// Closed because of age, idleness or `expire_all`.
    pub expired: u64,
    /// Closed to make room for another key.
    pub evicted: u64,
    /// Reported as leaks.
    pub leaks: u64,
}
