//! LogBuffer: lines between those who log, who never wait, and the one who writes, whom anything may hold up.
//!
//! **Bounded, in bytes.** A line that has no room is dropped and counted; what counts is every line that has not been
//! written yet, those in the writer's hands included. The last eighth of the room is for lines that matter (warnings and
//! worse), so that a flood of small talk does not cost the one line that explains it.
//!
//! **In order, with the gaps in their places.** Lines leave in the order in which they came. Where some were dropped the
//! writer finds how many, between the line before and the line after.
//!
//! **Few wake-ups.** The writer takes all there is at once. With nothing there it looks again a moment later, and only
//! then sleeps until it is woken: while lines come thick, nobody pays for waking it.
//!
//! Here are the books and the bytes; who sleeps how, and what writing is, is the caller's.

/// A chunk that was larger than this gives its memory back when it is empty.
const KEPT: usize = 256 * 1024;

/// What lies between two lines, or is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A line, as it was given.
    Line(&'a [u8]),
    /// So many lines were dropped here.
    Gap(u64),
}

/// Lines that the writer took, in order.
#[derive(Debug, Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// Lines dropped behind the last one.
    lost: u64,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    end: usize,
    /// Lines dropped in front of it.
    lost: u64,
}

impl Chunk {
    /// What to write, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut start = 0;
        let lines = self.lines.iter().flat_map(move |line| {
            let bytes = &self.bytes[start..line.end];
            start = line.end;
            [gap(line.lost), Some(Piece::Line(bytes))]
        });
        lines.chain([gap(self.lost)]).flatten()
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.lost == 0
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.lines.clear();
        self.lost = 0;
        if self.bytes.capacity() > KEPT {
            *self = Self::default();
        }
    }
}

fn gap(lost: u64) -> Option<Piece<'static>> {
    (lost > 0).then_some(Piece::Gap(lost))
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Whether it will be written; else there was no room.
    pub kept: bool,
    /// Whether the writer sleeps and has to be woken, for the line or for the gap.
    pub wake: bool,
}

/// What became of lines that the writer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Lines that were written.
    pub written: u64,
    /// Bytes of those.
    pub written_bytes: usize,
    /// Lines that could not be written.
    pub failed: u64,
    /// Bytes of those.
    pub failed_bytes: usize,
}

/// What the writer does next.
#[derive(Debug)]
pub enum Next {
    /// Writes these.
    Write(Chunk),
    /// Looks again in a moment.
    Linger,
    /// Sleeps until it is woken.
    Park,
}

/// Totals since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Lines that were written.
    pub written: u64,
    /// Bytes of those.
    pub written_bytes: u64,
    /// Lines that could not be written.
    pub failed: u64,
    /// Lines for which there was no room.
    pub dropped: u64,
    /// The most bytes that ever waited.
    pub peak_bytes: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct LogBuffer {
    limit: usize,
    filling: Chunk,
    /// Bytes and lines that the writer took and has not settled.
    out: usize,
    out_lines: u64,
    writer: Writer,
    totals: Totals,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// It has a chunk in its hands.
    Writes,
    /// It is about to look.
    Busy,
    Lingering,
    Parked,
}

impl LogBuffer {
    /// An empty one, with room for `limit` bytes. The writer is awake.
    pub fn new(limit: usize) -> Self {
        Self { limit, filling: Chunk::default(), out: 0, out_lines: 0, writer: Writer::Busy, totals: Totals::default() }
    }

    /// A line comes. `matters`: it may use the room that is kept back.
    pub fn push(&mut self, line: &[u8], matters: bool) -> Pushed {
        let wake = self.writer == Writer::Parked;
        self.writer = if wake { Writer::Busy } else { self.writer };
        let held = self.held_bytes() + line.len();
        let room = if matters { self.limit } else { self.limit - self.limit / 8 };
        if held > room {
            self.filling.lost += 1;
            self.totals.dropped += 1;
            return Pushed { kept: false, wake };
        }
        let lost = std::mem::take(&mut self.filling.lost);
        self.filling.bytes.extend_from_slice(line);
        self.filling.lines.push(Line { end: self.filling.bytes.len(), lost });
        self.totals.peak_bytes = self.totals.peak_bytes.max(held);
        Pushed { kept: true, wake }
    }

    /// The writer ends; another one may come.
    pub fn writer_left(&mut self) {
        self.writer = Writer::Busy;
    }

    /// A line comes when the writer is gone for good.
    pub fn refuse(&mut self) {
        self.totals.dropped += 1;
    }

    /// The writer has nothing in its hands and asks what to do. `spare` is a chunk it is done with.
    pub fn next(&mut self, mut spare: Chunk) -> Next {
        if self.filling.is_empty() {
            let lingered = self.writer == Writer::Lingering;
            self.writer = if lingered { Writer::Parked } else { Writer::Lingering };
            return if lingered { Next::Park } else { Next::Linger };
        }
        self.writer = Writer::Writes;
        spare.clear();
        let chunk = std::mem::replace(&mut self.filling, spare);
        self.out += chunk.bytes.len();
        self.out_lines += chunk.lines.len() as u64;
        Next::Write(chunk)
    }

    /// The writer is done with some of the lines that it took.
    pub fn settle(&mut self, settled: Settled) {
        let Settled { written, written_bytes, failed, failed_bytes } = settled;
        debug_assert!(written + failed <= self.out_lines, "it settles what it has");
        self.out -= written_bytes + failed_bytes;
        self.out_lines -= written + failed;
        self.totals.written += written;
        self.totals.written_bytes += written_bytes as u64;
        self.totals.failed += failed;
    }

    /// Lines that are not written yet.
    pub fn held(&self) -> u64 {
        self.filling.lines.len() as u64 + self.out_lines
    }

    /// Bytes of those.
    pub fn held_bytes(&self) -> usize {
        self.filling.bytes.len() + self.out
    }

    /// Whether the writer has nothing more to do: no line, and no gap to report.
    pub fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.writer != Writer::Writes
    }

    /// Whether lines were dropped and nobody has been told yet.
    pub fn has_gap(&self) -> bool {
        self.filling.lost > 0 || self.filling.lines.iter().any(|line| line.lost > 0)
    }

    /// Whether the writer sleeps until it is woken.
    pub fn is_parked(&self) -> bool {
        self.writer == Writer::Parked
    }

    /// The number of the line that came last, and of the one up to which all are settled.
    pub fn progress(&self) -> (u64, u64) {
        let settled = self.totals.written + self.totals.failed;
        (settled + self.held(), settled)
    }

    /// The room there is, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Totals so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }
}
