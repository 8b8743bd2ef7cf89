//! LW105: work that holds the GIL is sent to a thread, where it stops the loop all the same.

use super::chains;
use crate::effects::Elsewhere;
use crate::facts::Certainty;
use crate::finding::{Finding, Frame, Level};
use crate::program::{Channel, Offloaded, Program};
use crate::rule::{Rule, RuleMeta};

/// See `lw105.md`.
pub struct GilHeldInThread;

static META: RuleMeta = RuleMeta {
    code: "LW105",
    name: "gil-held-in-thread",
    summary: "A call that holds the GIL is sent to a thread",
    pedantic: false,
    fix: None,
    page: include_str!("lw105.md"),
};

const HELP: &str = "send it to a process: `loop.run_in_executor(ProcessPoolExecutor(), ...)` or \
    `loopwright.offload(..., on=\"process\")`";

impl Rule for GilHeldInThread {
    fn meta(&self) -> &'static RuleMeta {
        &META
    }

    fn check_program(&self, program: &Program, found: &mut Vec<Finding>) {
        for key in &program.project {
            for sent in program.offloaded(key).iter().filter(|sent| sent.to == Elsewhere::Thread) {
                found.extend(direct(program, key, sent));
            }
        }
        for root in program.roots().iter().filter(|root| root.channel == Channel::Gil) {
            let message = format!(
                "`{}` holds the GIL: `{}` runs in a thread, but stops the event loop all the same",
                root.primitive,
                chains::short(program, &root.entry)
            );
            let mut finding = chains::finding(program, root, META.code, message);
            finding.help = Some(HELP.to_owned());
            found.push(finding);
        }
    }
}

/// The function that is sent away is itself in the table.
fn direct(program: &Program, key: &crate::facts::FnKey, sent: &Offloaded) -> Option<Finding> {
    let blocks = program.table.blocks(&sent.target.qual).filter(|blocks| blocks.gil)?;
    let site = program.site(key, sent.site)?;
    let function = chains::name(program, key);
    let level = match sent.target.certainty {
        Certainty::Certain => Level::Certain,
        Certainty::Likely => Level::Likely,
        Certainty::Guess => Level::Pedantic,
    };
    Some(Finding {
        rule: META.code.to_owned(),
        level: level.max(blocks.level),
        path: key.path.clone(),
        span: site.span,
        function: function.clone(),
        message: format!("`{}` holds the GIL: in a thread it stops the event loop all the same", sent.target.qual),
        frames: vec![Frame {
            path: key.path.clone(),
            span: site.span,
            function,
            note: format!("sends `{}` to a thread", sent.target.qual),
        }],
        why: Some(blocks.source.clone()),
        help: Some(HELP.to_owned()),
        tags: program.tags(key),
        callers: vec![],
        callers_total: 0,
        fix: None,
        quiet: blocks.short || program.is_quiet(key),
    })
}
