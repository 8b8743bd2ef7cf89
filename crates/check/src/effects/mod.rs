//! What blocks, what offloads, what guards: a table, not code.

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Table {}

impl Table {
    /// The table that comes with the analyser.
    pub fn builtin() -> Self {
        Self {}
    }
}
