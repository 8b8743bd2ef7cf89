//! How far an analysis is, for people who wait at a terminal.

/// Is told what goes on. Called from many threads.
pub trait Progress: Sync {
    /// A phase begins that has so many steps: "reading", "checking"; 0 when that is not known.
    fn begin(&self, phase: &'static str, steps: usize);
    /// One of them is done.
    fn step(&self);
}

/// Tells nobody.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: &'static str, _steps: usize) {}
    fn step(&self) {}
}
