//! Which rules are on: codes and prefixes, and what a pedantic rule needs to be shown.

use std::fmt;

use crate::finding::{Finding, Level};
use crate::rule::RuleMeta;

/// A code or the beginning of codes: `LW101`, `LW1`, `LW`; `ALL` is the empty prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(String);

/// A text that is the beginning of no rule's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSelector(pub String);

impl fmt::Display for UnknownSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is neither a rule nor the beginning of one; `loopwright-check rules` lists them", self.0)
    }
}

impl std::error::Error for UnknownSelector {}

impl Selector {
    /// Reads one; it has to fit a rule.
    pub fn parse(text: &str, rules: &[&'static RuleMeta]) -> Result<Self, UnknownSelector> {
        let code = text.trim().to_ascii_uppercase();
        if code == "ALL" {
            return Ok(Self(String::new()));
        }
        if code.starts_with("LW") && rules.iter().any(|rule| rule.code.starts_with(&code)) {
            return Ok(Self(code));
        }
        // A rule may also be named: blocking-call.
        match rules.iter().find(|rule| rule.name.eq_ignore_ascii_case(text.trim())) {
            Some(rule) => Ok(Self(rule.code.to_owned())),
            None => Err(UnknownSelector(text.trim().to_owned())),
        }
    }

    /// Reads several.
    pub fn parse_all<'t>(
        texts: impl IntoIterator<Item = &'t str>,
        rules: &[&'static RuleMeta],
    ) -> Result<Vec<Self>, UnknownSelector> {
        texts.into_iter().filter(|text| !text.trim().is_empty()).map(|text| Self::parse(text, rules)).collect()
    }

    /// Whether a code begins so.
    pub fn matches(&self, code: &str) -> bool {
        code.starts_with(&self.0)
    }
}

/// Which rules are on. The longest selector that fits a code decides; of equal ones, `ignore`.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// What is on; none: every rule.
    pub select: Option<Vec<Selector>>,
    /// What is on besides.
    pub extend: Vec<Selector>,
    /// What is off.
    pub ignore: Vec<Selector>,
    /// Pedantic rules and findings are shown too.
    pub pedantic: bool,
}

impl Selection {
    /// Whether a finding of this rule is shown at all.
    pub fn shows(&self, rule: &RuleMeta, finding: &Finding) -> bool {
        if !self.on(rule.code) {
            return false;
        }
        if self.pedantic || (rule.pedantic && self.by_code(rule.code)) {
            return true;
        }
        !rule.pedantic && finding.level != Level::Pedantic
    }

    fn on(&self, code: &str) -> bool {
        let longest =
            |selectors: &[Selector]| selectors.iter().filter(|s| s.matches(code)).map(|s| s.0.len() + 1).max();
        let selected = match &self.select {
            Some(select) => longest(select),
            None => Some(1),
        };
        let selected = selected.max(longest(&self.extend));
        selected.is_some() && selected > longest(&self.ignore)
    }

    fn by_code(&self, code: &str) -> bool {
        self.select.iter().flatten().chain(&self.extend).any(|selector| selector.0 == code)
    }
}
