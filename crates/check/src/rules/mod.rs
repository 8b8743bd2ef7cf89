//! The rules, one file each; this list is the only place that knows them all.

use crate::rule::Rule;

pub mod chains;
mod lw101;
mod lw102;
mod lw103;
mod lw104;
mod lw105;
mod lw106;
mod lw107;
mod lw108;
mod lw109;
mod lw110;
mod lw201;
mod lw202;
mod lw203;
mod lw204;
mod lw205;
mod lw206;
mod lw207;
mod lw208;
mod lw209;
mod lw210;
mod lw211;
mod lw301;
mod lw302;
mod lw303;
mod lw305;
mod lw306;
mod lw401;
mod lw402;
mod lw403;
mod lw404;
mod lw405;
mod lw406;
mod lw407;
mod lw408;
mod lw409;
mod lw410;
mod lw501;
mod lw502;
mod lw503;
mod lw504;
mod lw505;
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
        &lw107::EagerOffload,
        &lw108::ThreadLockAcrossAwait,
        &lw109::PipeWaitDeadlock,
        &lw110::CpuLoop,
        &lw201::CoroutineNeverAwaited,
        &lw202::TaskDropped,
        &lw203::ShieldOrphan,
        &lw204::CancelSwallowed,
        &lw205::SharedFutureAwaited,
        &lw206::LocalTaskSet,
        &lw207::CancelledCountedAsSuccess,
        &lw208::UnguardedTaskException,
        &lw209::ExceptInsideGroup,
        &lw210::UnshieldedCleanup,
        &lw211::CommitOnCancel,
        &lw301::ClientPerCall,
        &lw302::YieldInScope,
        &lw303::PermitEndsBeforeUse,
        &lw305::ResponseEscapes,
        &lw306::FilterPerCall,
        &lw401::TimeoutWithoutAwait,
        &lw402::AcquireWithoutDeadline,
        &lw403::AwaitsInSeries,
        &lw404::UnboundedFanOut,
        &lw405::LimiterPerCall,
        &lw406::LockOverIo,
        &lw407::UnboundedRecursionRetry,
        &lw408::UnboundedQueue,
        &lw409::TimeoutPerStep,
        &lw410::DeafSleep,
        &lw501::SentinelCount,
        &lw502::JoinWithoutTaskDone,
        &lw503::LockOrderInversion,
        &lw504::CheckThenAct,
        &lw505::AwaitBeforeDelete,
        &lw507::TaskDoneWithoutGet,
        &lw508::SignalHandlerArity,
        &lw509::ReprAsQuoting,
    ]
}
