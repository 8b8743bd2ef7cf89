//! Batch: single requests gathered into batches.
//!
//! A batch is due when it is full, when its oldest request has waited long enough, or when somebody says so; and runs as
//! soon as fewer batches run than may. Requests leave in the order in which they came; one that is withdrawn before its
//! batch runs was never there.
//!
//! Lives here: which requests make a batch, and when. Does not live here: the requests, and what a batch does.

use std::collections::VecDeque;

/// A request, for as long as it waits.
pub type Ticket = u64;

/// See the module's documentation.
#[derive(Debug)]
pub struct Batch {
    max_size: usize,
    max_delay: f64,
    max_running: usize,
    /// Who waits since when, oldest first.
    waiting: VecDeque<(Ticket, f64)>,
    next: Ticket,
    /// Requests before this one do not wait for more.
    flushed: Ticket,
    running: usize,
}

impl Batch {
    /// Batches of up to `max_size` requests, none of which waits longer than `max_delay` for others.
    ///
    /// # Panics
    /// When nothing could ever run.
    #[must_use]
    pub fn new(max_size: usize, max_delay: f64, max_running: usize) -> Self {
        assert!(max_size > 0 && max_running > 0, "nothing could ever run");
        Self { max_size, max_delay, max_running, waiting: VecDeque::new(), next: 0, flushed: 0, running: 0 }
    }

    /// A request comes. Ask [`run_full`](Self::run_full) next: even one that waits for no time at all waits for those of
    /// its own turn.
    pub fn add(&mut self, now: f64) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.waiting.push_back((ticket, now));
        ticket
    }

    /// A request is withdrawn. False: it is in a batch already.
    pub fn withdraw(&mut self, ticket: Ticket) -> bool {
        match self.waiting.binary_search_by_key(&ticket, |&(ticket, _)| ticket) {
            Ok(place) => self.waiting.remove(place).is_some(),
            Err(_) => false,
        }
    }

    /// Those that wait now wait for no more.
    pub fn flush(&mut self) {
        self.flushed = self.next;
    }

    /// The requests of a batch that runs from now on, if one is due. Ask again until there is none.
    pub fn run(&mut self, now: f64) -> Option<Vec<Ticket>> {
        let due = self.due_at().is_some_and(|due| due <= now);
        if due { self.start() } else { self.run_full() }
    }

    /// The same, if one is full.
    pub fn run_full(&mut self) -> Option<Vec<Ticket>> {
        if self.waiting.len() >= self.max_size { self.start() } else { None }
    }

    fn start(&mut self) -> Option<Vec<Ticket>> {
        if self.running >= self.max_running {
            return None;
        }
        self.running += 1;
        let size = self.waiting.len().min(self.max_size);
        Some(self.waiting.drain(..size).map(|(ticket, _)| ticket).collect())
    }

    /// A batch ended. Ask [`run`](Self::run) next.
    pub fn ended(&mut self) {
        debug_assert!(self.running > 0, "a batch ended that did not run");
        self.running = self.running.saturating_sub(1);
    }

    /// When to ask [`run`](Self::run) although nothing has happened.
    #[must_use]
    pub fn wake_at(&self) -> Option<f64> {
        self.due_at().filter(|_| self.running < self.max_running)
    }

    /// When the oldest has waited long enough.
    fn due_at(&self) -> Option<f64> {
        let &(ticket, since) = self.waiting.front()?;
        Some(if ticket < self.flushed { since } else { since + self.max_delay })
    }

    /// Requests that are in no batch yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Batches that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }
}
