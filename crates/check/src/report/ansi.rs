//! Colours for terminals, and when there are some.

use std::env;
use std::fmt::{self, Display};
use std::io::IsTerminal;

/// When output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Also into files and pipes.
    Always,
    /// Never.
    Never,
}

/// Writes text with or without colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    colors: bool,
}

impl Style {
    /// No colours.
    pub fn plain() -> Self {
        Self { colors: false }
    }

    /// What was asked for, and what the environment allows: FORCE_COLOR, NO_COLOR, a dumb terminal.
    pub fn choose(color: Color, out: &dyn IsTerminalOut) -> Self {
        let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
        let colors = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto if set("NO_COLOR") => false,
            Color::Auto if set("FORCE_COLOR") => true,
            Color::Auto => out.terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb"),
        };
        Self { colors }
    }

    /// Important.
    pub fn bold<T: Display>(self, text: T) -> Painted<T> {
        self.paint("1", text)
    }

    /// What is wrong.
    pub fn red<T: Display>(self, text: T) -> Painted<T> {
        self.paint("1;31", text)
    }

    /// What is only likely, or was given up.
    pub fn yellow<T: Display>(self, text: T) -> Painted<T> {
        self.paint("1;33", text)
    }

    /// What is well, or new.
    pub fn green<T: Display>(self, text: T) -> Painted<T> {
        self.paint("32", text)
    }

    /// Gutters and signs.
    pub fn blue<T: Display>(self, text: T) -> Painted<T> {
        self.paint("1;34", text)
    }

    /// What can be overlooked.
    pub fn dim<T: Display>(self, text: T) -> Painted<T> {
        self.paint("2", text)
    }

    /// Places and hunks.
    pub fn cyan<T: Display>(self, text: T) -> Painted<T> {
        self.paint("36", text)
    }

    fn paint<T: Display>(self, code: &'static str, text: T) -> Painted<T> {
        Painted { code: self.colors.then_some(code), text }
    }
}

/// Something that may be a terminal.
pub trait IsTerminalOut {
    /// Whether it is one.
    fn terminal(&self) -> bool;
}

impl<T: IsTerminal> IsTerminalOut for T {
    fn terminal(&self) -> bool {
        self.is_terminal()
    }
}

/// A text with a colour.
pub struct Painted<T> {
    code: Option<&'static str>,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            Some(code) => write!(f, "\x1b[{code}m{}\x1b[0m", self.text),
            None => self.text.fmt(f),
        }
    }
}
