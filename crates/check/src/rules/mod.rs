//! The rules, one file each; this list is the only place that knows them all.

use crate::rule::Rule;

pub mod support;

/// Every rule, by code.
pub fn all() -> &'static [&'static dyn Rule] {
    &[]
}
