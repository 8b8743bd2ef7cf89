//! The rules, one file each; this list is the only place that knows them all.

use crate::rule::Rule;

pub mod chains;
mod lw101;
mod lw102;
mod lw103;
mod lw104;
mod lw105;
mod lw106;
mod lw109;
mod lw110;
mod lw301;
mod lw302;
mod lw303;
mod lw305;
mod lw306;
mod lw501;
mod lw502;
mod lw503;
mod lw507;
mod lw508;
mod lw509;
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
        &lw109::PipeWaitDeadlock,
        &lw110::CpuLoop,
        &lw301::ClientPerCall,
        &lw302::YieldInScope,
        &lw303::PermitEndsBeforeUse,
        &lw305::ResponseEscapes,
        &lw306::FilterPerCall,
        &lw501::SentinelCount,
        &lw502::JoinWithoutTaskDone,
        &lw503::LockOrderInversion,
        &lw507::TaskDoneWithoutGet,
        &lw508::SignalHandlerArity,
        &lw509::ReprAsQuoting,
    ]
}
