//! The command `loopwright-check`.

fn main() {}
