//! The decisions of Loopwright, and nothing else.
//!
//! Every module here is a plain state machine: an event goes in (`acquire(n)`, `cancelled(ticket)`, `fired(now)`),
//! actions come out (whom to wake, what to close, when to call again). There is no Python here, no clock, no I/O and no
//! thread, so each machine can be read alone, model-checked and fuzzed, and the same machine serves a real event loop
//! and a simulated one. `crates/python` carries the actions out and decides nothing.
//!
//! Machines are generic over `W`, the *waker*: whatever the caller needs to get at a waiter again. A machine only
//! stores it and hands it back, exactly once.
#![forbid(unsafe_code)]

pub mod adaptive;
pub mod batch;
pub mod breaker;
pub mod deadlines;
pub mod event;
pub mod gcra;
pub mod keyed;
pub mod log_buffer;
pub mod log_text;
pub mod map;
pub mod offload;
pub mod output;
pub mod pool;
pub mod process;
pub mod progress;
pub mod queue;
pub mod retry;
pub mod rng;
pub mod schedule;
pub mod scope;
pub mod semaphore;
mod slab;
pub mod stopwatch;
pub mod token;
pub mod waiters;
