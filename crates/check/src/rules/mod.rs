//! The rules, one file each; this list is the only place that knows them all.

use crate::rule::Rule;

pub mod chains;
mod lw101;
mod lw102;
mod lw103;
mod lw104;
mod lw105;
mod lw106;
pub mod support;
mod to_thread;

/// Every rule, by code.
pub fn all() -> &'static [&'static dyn Rule] {
    &[
        &lw101::BlockingCall,
        &lw102::BlockingDependency,
        &lw103::BlockingCallback,
        &lw104::NestedLoop,
        &lw105::GilHeldInThread,
        &lw106::ExecutorExitBlocks,
    ]
}
