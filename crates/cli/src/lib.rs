//! Argument parsing and printing for `loopwright …`. What a command does lives elsewhere.
//!
//! [`args::parse`] turns an argument vector into a [`args::Command`] or into finished text with an exit code;
//! [`report::Report`] is the health report, as data, as JSON and as text. Nothing here does I/O.
#![forbid(unsafe_code)]

pub mod args;
pub mod report;
