//! From files to facts: the one room that knows ty's type inference.

mod budget;
mod classes;
pub mod db;
pub mod discover;
mod elsewhere;
mod extract;
mod functions;
mod gather;
mod guards;
mod implicit;
mod methods;
mod names;
mod resolve;
mod values;

pub(crate) use gather::gather;
pub use resolve::Resolver;
