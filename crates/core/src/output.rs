//! Output: what a child process writes, kept in bounded memory.
//!
//! [`Tail`] keeps the last bytes and counts what it cut. [`Lines`] holds what nobody has taken yet, as lines or as it
//! came; whether there is room for more is its to say, so that a slow taker stops the writer.
//!
//! Lives here: the bounds, where a line ends, where one that is too long is cut. Does not live here: pipes, text.
//!
//! Guarantees: a tail never holds more than it was made for, and held + cut = written. Lines lose and add no byte:
//! joined with their ends they are what was pushed, whatever the chunks. No piece is longer than `most`, and what waits
//! stays below `max(most + 2, ROOM)` and a chunk, if nothing is pushed while there is no room.

use std::collections::VecDeque;
use std::ops::Range;

/// Bytes of whole lines that wait; with more there is no room.
const ROOM: usize = 1 << 16;

/// The last bytes of an output.
#[derive(Debug)]
pub struct Tail {
    most: usize,
    bytes: VecDeque<u8>,
    cut: u64,
}

impl Tail {
    /// Keeps `most` bytes.
    pub fn new(most: usize) -> Self {
        Self { most, bytes: VecDeque::new(), cut: 0 }
    }

    /// More was written.
    pub fn push(&mut self, chunk: &[u8]) {
        let kept = &chunk[chunk.len().saturating_sub(self.most)..];
        let above = (self.bytes.len() + kept.len()).saturating_sub(self.most);
        self.bytes.drain(..above);
        self.bytes.extend(kept);
        self.cut += (above + chunk.len() - kept.len()) as u64;
    }

    /// What is kept, as two slices that follow each other.
    pub fn kept(&self) -> (&[u8], &[u8]) {
        self.bytes.as_slices()
    }

    /// How many bytes were written before what is kept.
    pub fn cut(&self) -> u64 {
        self.cut
    }
}

/// What was written and not taken yet.
#[derive(Debug)]
pub struct Lines {
    most: usize,
    bytes: Vec<u8>,
    /// Bytes at the front that were taken.
    taken: usize,
    /// No line ends before here.
    searched: usize,
    ended: bool,
}

impl Lines {
    /// Lines of at most `most` bytes, their ends not counted; a longer one comes in pieces.
    ///
    /// # Panics
    /// When `most` is less than 4, the length of a character.
    pub fn new(most: usize) -> Self {
        assert!(most >= 4, "a piece has to hold a character");
        Self { most, bytes: Vec::new(), taken: 0, searched: 0, ended: false }
    }

    /// More was written.
    pub fn push(&mut self, chunk: &[u8]) {
        debug_assert!(!self.ended, "written after the end");
        if self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.searched -= self.taken;
            self.taken = 0;
        }
        self.bytes.extend_from_slice(chunk);
    }

    /// Nothing more will be written: what follows the last end is a line too.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Nothing more will be written, and all of it was taken.
    pub fn is_over(&self) -> bool {
        self.ended && self.waiting() == 0
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Whether more should be pushed: what waits is little, or less than a line.
    pub fn has_room(&mut self) -> bool {
        self.waiting() < ROOM || self.find().is_none()
    }

    /// Where the next line is: its text, and where the one after it begins.
    fn find(&mut self) -> Option<(Range<usize>, usize)> {
        // So far the end of a line that is short enough can be, `\r\n` counted.
        let window = self.bytes.len().min(self.taken + self.most + 2);
        let from = self.searched.clamp(self.taken, window);
        let end = self.bytes[from..window].iter().position(|&byte| byte == b'\n').map(|at| from + at);
        self.searched = end.unwrap_or(window);
        if let Some(end) = end {
            let text = end - usize::from(end > self.taken && self.bytes[end - 1] == b'\r');
            if text - self.taken <= self.most {
                return Some((self.taken..text, end + 1));
            }
        } else if window < self.taken + self.most + 2 && !(self.ended && self.waiting() > self.most) {
            let last = self.ended && self.waiting() > 0;
            return last.then_some((self.taken..self.bytes.len(), self.bytes.len()));
        }
        let mut cut = self.taken + self.most;
        // Not within a character of UTF-8, if this is UTF-8.
        for back in 0..4 {
            let byte = self.bytes[cut - back];
            if byte & 0xC0 != 0x80 {
                cut -= back;
                break;
            }
        }
        Some((self.taken..cut, cut))
    }

    /// Takes the next line, without its end (`\n` or `\r\n`), or with it. A line that is too long comes in pieces, which
    /// have none.
    pub fn take(&mut self, with_end: bool) -> Option<&[u8]> {
        let (text, next) = self.find()?;
        self.taken = next;
        self.searched = self.searched.max(next);
        Some(&self.bytes[if with_end { text.start..next } else { text }])
    }

    /// Takes up to `n` bytes as they came.
    pub fn take_bytes(&mut self, n: usize) -> &[u8] {
        let start = self.taken;
        self.taken += n.min(self.waiting());
        self.searched = self.searched.max(self.taken);
        &self.bytes[start..self.taken]
    }
}
