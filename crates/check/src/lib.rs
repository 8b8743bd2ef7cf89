//! Finds what blocks an asyncio event loop although every file looks innocent.
//!
//! The pipeline: `frontend` reads files into facts (the only room that knows ty), `program` links the facts and follows
//! effects along calls, `rules` find, `report` prints. `effects` is the table of what blocks, `finding` and `facts` are
//! the two languages that the rooms speak to each other.

pub mod context;
pub mod effects;
pub mod facts;
pub mod finding;
pub mod frontend;
pub mod program;
pub mod rule;
pub mod rules;
