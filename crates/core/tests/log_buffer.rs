//! `LogBuffer` against a naive list: each line is written once, in order, or counted as dropped where it would have been.

use std::collections::VecDeque;

use loopwright_core::log_buffer::{Chunk, LogBuffer, Next, Piece, Pushed, Settled};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Push { length: usize, matters: bool },
    Look,
    Settle { fail: bool },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_usize..60, any::<bool>()).prop_map(|(length, matters)| Event::Push { length, matters }),
        2 => Just(Event::Look),
        3 => any::<bool>().prop_map(|fail| Event::Settle { fail }),
    ]
}

/// What the reference expects to be written next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Line(Vec<u8>),
    Gap(u64),
}

struct Pair {
    real: LogBuffer,
    limit: usize,
    entries: VecDeque<Entry>,
    /// What the writer has in its hands, and the chunk it came in.
    hands: VecDeque<Entry>,
    spare: Chunk,
    asleep: bool,
    pushed: u64,
    dropped: u64,
    done: u64,
    number: u8,
}

impl Pair {
    fn held(&self) -> usize {
        let length = |entry: &Entry| if let Entry::Line(line) = entry { line.len() } else { 0 };
        self.entries.iter().chain(&self.hands).map(length).sum()
    }

    fn push(&mut self, length: usize, matters: bool) {
        self.number = self.number.wrapping_add(1);
        let line = vec![self.number; length];
        let room = if matters { self.limit } else { self.limit - self.limit / 8 };
        let fits = self.held() + length <= room;
        let pushed = self.real.push(&line, matters);
        assert_eq!(pushed, Pushed { kept: fits, wake: self.asleep });
        self.asleep = false;
        self.pushed += 1;
        if fits {
            self.entries.push_back(Entry::Line(line));
        } else if let Some(Entry::Gap(lost)) = self.entries.back_mut() {
            *lost += 1;
            self.dropped += 1;
        } else {
            self.entries.push_back(Entry::Gap(1));
            self.dropped += 1;
        }
    }

    fn look(&mut self) {
        if !self.hands.is_empty() || self.asleep {
            return;
        }
        match self.real.next(std::mem::take(&mut self.spare)) {
            Next::Write(chunk) => {
                let pieces = chunk.pieces().map(|piece| match piece {
                    Piece::Line(line) => Entry::Line(line.to_vec()),
                    Piece::Gap(lost) => Entry::Gap(lost),
                });
                self.hands = pieces.collect();
                assert_eq!(self.hands, self.entries, "all there is, in order, gaps in their places");
                self.entries.clear();
                self.spare = chunk;
            }
            Next::Linger => {
                assert_eq!(self.entries, [], "it does not wait beside a line");
                assert!(matches!(self.real.next(Chunk::default()), Next::Park), "it lingers once, then sleeps");
                self.asleep = true;
            }
            Next::Park => panic!("it sleeps without having lingered"),
        }
    }

    fn settle(&mut self, fail: bool) {
        let Some(entry) = self.hands.pop_front() else { return };
        let Entry::Line(line) = entry else { return };
        self.done += 1;
        self.real.settle(if fail {
            Settled { failed: 1, failed_bytes: line.len(), ..Settled::default() }
        } else {
            Settled { written: 1, written_bytes: line.len(), ..Settled::default() }
        });
    }

    fn check(&self) {
        let totals = self.real.totals();
        assert_eq!(totals.written + totals.failed, self.done);
        assert_eq!(totals.dropped, self.dropped);
        assert_eq!(self.done + totals.dropped + self.real.held(), self.pushed, "every line is accounted for");
        assert_eq!(self.real.held_bytes(), self.held());
        assert!(self.held() <= self.limit);
        assert_eq!(self.real.progress(), (self.done + self.real.held(), self.done));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn every_line_is_written_once_in_order_or_counted_where_it_was_lost(
        limit in 1_usize..200,
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut pair = Pair {
            real: LogBuffer::new(limit), limit, entries: VecDeque::new(), hands: VecDeque::new(), spare: Chunk::default(),
            asleep: false, pushed: 0, dropped: 0, done: 0, number: 0,
        };
        for event in events {
            match event {
                Event::Push { length, matters } => pair.push(length, matters),
                Event::Look => pair.look(),
                Event::Settle { fail } => pair.settle(fail),
            }
            pair.check();
        }
        while !pair.asleep {
            pair.look();
            while !pair.hands.is_empty() {
                pair.settle(false);
            }
            pair.check();
        }
        prop_assert!(pair.real.is_idle());
        prop_assert_eq!(pair.real.held(), 0);
    }
}

#[test]
fn a_flood_of_small_talk_leaves_room_for_what_matters() {
    let mut buffer = LogBuffer::new(800);
    while buffer.push(&[b'.'; 10], false).kept {}
    assert!(buffer.push(&[b'!'; 100], true).kept);
    assert!(!buffer.push(&[b'!'; 10], true).kept);
}

#[test]
fn a_burst_gives_its_memory_back() {
    let mut buffer = LogBuffer::new(64 << 20);
    for _ in 0..100_000 {
        buffer.push(&[b'.'; 100], false);
    }
    let Next::Write(chunk) = buffer.next(Chunk::default()) else { panic!("there is much to write") };
    buffer.settle(Settled { written: 100_000, written_bytes: 10_000_000, ..Settled::default() });
    assert!(matches!(buffer.next(chunk), Next::Linger));
    buffer.push(b"one", false);
    let Next::Write(chunk) = buffer.next(Chunk::default()) else { panic!("there is a line") };
    assert_eq!(chunk.pieces().collect::<Vec<_>>(), [Piece::Line(b"one")]);
}
