//! What a ledger is told when it is made. Times are seconds; `+inf` switches a limit off.

/// Which of several idle connections is handed out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The one used last: few warm connections serve a quiet time, the others idle out.
    Lifo,
    /// The one unused longest: even wear.
    Fifo,
}

/// See the fields. [`Config::default`] is a pool of ten exclusive connections without hooks.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connections of all keys together, whatever they are doing, closing ones included.
    pub max_size: usize,
    /// How many more may be opened for waiters; such a surplus goes again once nobody waits.
    pub burst: usize,
    /// Kept open of the pinned key, in the background. No more than `max_size`.
    pub min_size: usize,
    /// Connections of one key.
    pub max_per_key: usize,
    /// How many users one connection takes at the same time. 1: it is exclusive.
    pub max_shares: u32,
    /// See [`Order`].
    pub order: Order,
    /// A newcomer is refused when this many wait and nothing could be started for it.
    pub max_waiting: Option<usize>,
    /// An idle connection is closed after this time, unless `min_size` wants it.
    pub max_idle: f64,
    /// A connection is closed at this age, once it is not in use.
    pub max_lifetime: f64,
    /// Each connection's lifetime is shorter by a share of its own, between 0 and this one.
    pub jitter: f64,
    /// A connection that was idle for longer is checked before it is handed out.
    pub check_after: f64,
    /// There is a check hook.
    pub checks: bool,
    /// There is a reset hook. A pool of shared connections has none.
    pub resets: bool,
    /// How long a surplus connection may be idle.
    pub burst_linger: f64,
    /// A connect that takes longer is abandoned.
    pub connect_timeout: f64,
    /// A check, reset or close that takes longer is abandoned.
    pub hook_timeout: f64,
    /// An exclusive connection that is in use for longer is reported, once.
    pub leak_after: Option<f64>,
    /// After the first failed connect the next one waits up to this time,
    pub retry_base: f64,
    /// and after more of them up to this time.
    pub retry_max: f64,
    /// For jitter.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_size: 10,
            burst: 0,
            min_size: 0,
            max_per_key: usize::MAX,
            max_shares: 1,
            order: Order::Lifo,
            max_waiting: None,
            max_idle: f64::INFINITY,
            max_lifetime: f64::INFINITY,
            jitter: 0.05,
            check_after: 1.0,
            checks: false,
            resets: false,
            burst_linger: 0.0,
            connect_timeout: f64::INFINITY,
            hook_timeout: f64::INFINITY,
            leak_after: None,
            retry_base: 0.1,
            retry_max: 5.0,
            seed: 0,
        }
    }
}

impl Config {
    pub(super) fn shared(&self) -> bool {
        self.max_shares > 1
    }

    /// No more connections than this, ever.
    pub(super) fn cap(&self) -> usize {
        self.max_size.saturating_add(self.burst)
    }
}
