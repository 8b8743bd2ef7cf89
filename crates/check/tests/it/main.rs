//! The tests of the analyser, one binary: what it stands on is linked once.

mod bad_input;
mod cli;
mod facts;
mod fixes;
mod report;
mod rules;
mod seeded;
mod sift;
