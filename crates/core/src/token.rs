//! Token: a request to stop that is made once, heard by everybody who waits, and passed down a tree.
//!
//! A [`Family`] is a tree of tokens that were made from one another. Cancelling one cancels everything below it, in one
//! step, and nothing above or beside it; a child of a cancelled token is cancelled from the start. There is no way
//! back.
//!
//! A token that its owner has let go of stays in the tree only as long as something below it is held (a cancel from
//! above has to get through), so short-lived children leave nothing behind in a long-lived parent.

use std::sync::Arc;

use crate::slab::Slab;
use crate::waiters::{Resumed, Ticket, Waiters, Wakes};

const NONE: u32 = u32::MAX;

/// One token of a family, to be given back with [`Family::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a token that is not released stays in its family"]
pub struct Token(u32);

#[derive(Debug)]
struct Member<W> {
    parent: u32,
    /// The youngest child; the others follow by `elder`.
    child: u32,
    children: usize,
    elder: u32,
    younger: u32,
    held: bool,
    /// `Some` once it is cancelled.
    cancelled: Option<Option<Arc<str>>>,
    line: Waiters<W>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Family<W> {
    members: Slab<Member<W>>,
}

impl<W> Default for Family<W> {
    fn default() -> Self {
        Self { members: Slab::default() }
    }
}

impl<W> Family<W> {
    /// A token with nothing above it.
    pub fn root(&mut self) -> Token {
        self.join(NONE, None)
    }

    /// A token below `parent`.
    pub fn child(&mut self, parent: &Token) -> Token {
        let cancelled = self.members[parent.0].cancelled.clone();
        self.join(parent.0, cancelled)
    }

    /// The owner of a token lets go of it. Gives back the wakers of those who wait for it none the less.
    #[allow(clippy::needless_pass_by_value, reason = "the token is used up")]
    pub fn release(&mut self, token: Token) -> Vec<W> {
        let line = self.clear(&token);
        self.members[token.0].held = false;
        self.prune(token.0);
        line
    }

    /// Empties a token's line (it is being destroyed) and gives the wakers back.
    pub fn clear(&mut self, token: &Token) -> Vec<W> {
        std::mem::take(&mut self.members[token.0].line).refuse_all().into_iter().collect()
    }

    /// How many tokens there are, those nobody holds any more included.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a token is cancelled.
    pub fn is_cancelled(&self, token: &Token) -> bool {
        self.members[token.0].cancelled.is_some()
    }

    /// Why a token is cancelled: what was given where the cancel began.
    pub fn reason(&self, token: &Token) -> Option<Arc<str>> {
        self.members[token.0].cancelled.clone().flatten()
    }

    /// Children of a token, those nobody holds any more but whose own children are held included.
    pub fn children(&self, token: &Token) -> usize {
        self.members[token.0].children
    }

    /// Who waits for a token: in line, or woken and not run yet.
    pub fn waiting(&self, token: &Token) -> usize {
        let line = &self.members[token.0].line;
        line.waiting() + line.granted()
    }

    /// The wakers in a token's line, first to last.
    pub fn wakers(&self, token: &Token) -> impl Iterator<Item = &W> {
        self.members[token.0].line.wakers()
    }

    /// Cancels a token and all below it. `None`: it was cancelled already, and keeps the reason it has.
    pub fn cancel(&mut self, token: &Token, reason: Option<Arc<str>>) -> Option<Wakes<W>> {
        if self.is_cancelled(token) {
            return None;
        }
        let mut wakes = Wakes::default();
        let mut next = vec![token.0];
        while let Some(index) = next.pop() {
            let member = &mut self.members[index];
            if member.cancelled.is_some() {
                continue; // and so is everything below
            }
            member.cancelled = Some(reason.clone());
            for waker in member.line.grant_while(|_| true) {
                wakes.push(waker);
            }
            // Youngest first onto the stack: the eldest comes off it first.
            let mut child = member.child;
            while child != NONE {
                next.push(child);
                child = self.members[child].elder;
            }
        }
        Some(wakes)
    }

    /// Stands in a token's line, after [`is_cancelled`](Self::is_cancelled) said no.
    pub fn wait(&mut self, token: &Token, waker: W) -> Ticket {
        self.members[token.0].line.join(1, waker)
    }

    /// A waiter runs. Tells whether it was the cancel that woke it; if not, it is still in line.
    pub fn resume(&mut self, token: &Token, ticket: Ticket) -> bool {
        matches!(self.members[token.0].line.resume(ticket), Resumed::Granted(_))
    }

    /// A waiter was cancelled itself, or ran out of time. Gives back its waker if it still stood in line.
    pub fn leave(&mut self, token: &Token, ticket: Ticket) -> Option<W> {
        match self.members[token.0].line.leave(ticket) {
            crate::waiters::Left::Place(waker) => Some(waker),
            crate::waiters::Left::Reservation(_) | crate::waiters::Left::Nothing => None,
        }
    }

    fn join(&mut self, parent: u32, cancelled: Option<Option<Arc<str>>>) -> Token {
        let elder = if parent == NONE { NONE } else { self.members[parent].child };
        let index = self.members.insert(Member {
            parent,
            child: NONE,
            children: 0,
            elder,
            younger: NONE,
            held: true,
            cancelled,
            line: Waiters::default(),
        });
        if elder != NONE {
            self.members[elder].younger = index;
        }
        if parent != NONE {
            let parent = &mut self.members[parent];
            parent.child = index;
            parent.children += 1;
        }
        Token(index)
    }

    /// Removes a member that nobody holds and that has nothing below it, then its parent if that was all it was for.
    fn prune(&mut self, mut index: u32) {
        while index != NONE {
            let &Member { parent, child, elder, younger, held, .. } = &self.members[index];
            if held || child != NONE {
                return;
            }
            if elder != NONE {
                self.members[elder].younger = younger;
            }
            if younger != NONE {
                self.members[younger].elder = elder;
            } else if parent != NONE {
                self.members[parent].child = elder;
            }
            if parent != NONE {
                self.members[parent].children -= 1;
            }
            self.members.remove(index);
            index = parent;
        }
    }
}
