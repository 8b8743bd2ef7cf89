//! From files to facts: the one room that knows ty's type inference.

use ruff_python_ast as ast;
use ruff_python_ast::Expr;
use ruff_text_size::TextRange;

use crate::facts::{Span, Target};

/// What names and values of one file are.
pub struct Resolver<'a> {
    lifetime: std::marker::PhantomData<&'a ()>,
}

impl Resolver<'_> {
    /// See `FileContext::span`.
    pub fn span(&self, _range: TextRange) -> Span {
        Span::default()
    }

    /// See `FileContext::targets`.
    pub fn call_targets(&self, _call: &ast::ExprCall) -> Vec<Target> {
        vec![]
    }

    /// What a reference (not a call) denotes.
    pub fn reference_targets(&self, _expression: &Expr) -> Vec<Target> {
        vec![]
    }

    /// See `FileContext::qualified`.
    pub fn qualified(&self, _expression: &Expr) -> Option<String> {
        None
    }

    /// See `FileContext::classes`.
    pub fn classes(&self, _value: &Expr) -> Vec<String> {
        vec![]
    }

    /// See `FileContext::makes_coroutine`.
    pub fn makes_coroutine(&self, _call: &ast::ExprCall) -> bool {
        false
    }

    /// A dotted name of this module with the module's own name before it.
    pub fn in_module(&self, name: &str) -> String {
        name.to_owned()
    }
}
