//! Argument parsing and printing for `loopwright …`. What a command does lives elsewhere.
#![forbid(unsafe_code)]
