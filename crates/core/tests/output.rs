//! Output against what is simplest: all of it in one vector. Tails keep the last bytes and count the others; lines are
//! what a split gives, whatever the chunks, and are bounded.

use loopwright_core::output::{Lines, Tail};
use proptest::prelude::*;

fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let piece = prop_oneof![
        4 => Just(b"a".to_vec()),
        3 => Just(b"\n".to_vec()),
        2 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        1 => Just("é".as_bytes().to_vec()),
        1 => Just("😀".as_bytes().to_vec()),
        1 => Just(vec![0x80; 7]),
        1 => Just(vec![b'x'; 11]),
    ];
    prop::collection::vec(prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat()), 0..20)
}

/// Lines of `all` by a split: texts and ends.
fn split(all: &[u8]) -> Vec<(&[u8], &[u8])> {
    all.split_inclusive(|&byte| byte == b'\n')
        .map(|line| {
            let text = line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")).unwrap_or(line);
            line.split_at(text.len())
        })
        .collect()
}

fn is_boundary(all: &[u8], at: usize) -> bool {
    std::str::from_utf8(all).map_or(true, |text| text.is_char_boundary(at))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_tail_keeps_the_last_bytes_and_counts_the_others(chunks in chunks(), most in 0_usize..40) {
        let (mut tail, mut all) = (Tail::new(most), vec![]);
        for chunk in chunks {
            tail.push(&chunk);
            all.extend(chunk);
            let kept = &all[all.len().saturating_sub(most)..];
            let (first, second) = tail.kept();
            prop_assert_eq!([first, second].concat(), kept);
            prop_assert_eq!(tail.cut() + kept.len() as u64, all.len() as u64);
        }
    }

    #[test]
    fn lines_are_those_of_a_split_whatever_the_chunks(chunks in chunks(), eager in any::<bool>()) {
        let all = chunks.concat();
        let (mut lines, mut got) = (Lines::new(1000), vec![]);
        for chunk in &chunks {
            lines.push(chunk);
            while eager && let Some(line) = lines.take(false) {
                got.push(line.to_vec());
            }
        }
        lines.end();
        while let Some(line) = lines.take(false) {
            got.push(line.to_vec());
        }
        prop_assert!(lines.is_over());
        let texts: Vec<Vec<u8>> = split(&all).into_iter().map(|(text, _)| text.to_vec()).collect();
        prop_assert_eq!(got, texts);
    }

    #[test]
    fn long_lines_come_in_pieces_that_lose_nothing(
        chunks in chunks(), most in 4_usize..12, eager in any::<bool>(), with_end in any::<bool>(),
    ) {
        let all = chunks.concat();
        let (mut lines, mut got) = (Lines::new(most), vec![]);
        for chunk in &chunks {
            lines.push(chunk);
            while eager && let Some(line) = lines.take(with_end) {
                got.push(line.to_vec());
            }
        }
        lines.end();
        while let Some(line) = lines.take(with_end) {
            got.push(line.to_vec());
        }
        prop_assert!(lines.is_over());
        if with_end {
            prop_assert_eq!(got.concat(), all.clone());
            let mut at = 0;
            for piece in &got {
                prop_assert!(piece.len() <= most + 2 && !piece.is_empty());
                at += piece.len();
                prop_assert!(is_boundary(&all, at), "a character was cut");
            }
            let ends = got.iter().filter(|piece| piece.ends_with(b"\n")).count();
            prop_assert_eq!(ends, all.iter().filter(|&&byte| byte == b'\n').count());
        } else {
            prop_assert!(got.iter().all(|piece| piece.len() <= most));
            let texts: Vec<u8> = split(&all).into_iter().flat_map(|(text, _)| text.to_vec()).collect();
            prop_assert_eq!(got.concat(), texts);
            let short = split(&all).into_iter().filter(|(text, _)| text.len() <= most).count();
            prop_assert!(got.len() >= short);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_waits_is_bounded_where_nobody_takes(most in 4_usize..200_000, line in 1_usize..300_000) {
        let mut lines = Lines::new(most);
        let chunk = [vec![b'x'; line], b"\n".to_vec()].concat();
        let mut pushed = 0;
        while lines.has_room() {
            prop_assert!(lines.waiting() < (most + 2).max(1 << 16));
            lines.push(&chunk);
            pushed += chunk.len();
        }
        prop_assert_eq!(lines.waiting(), pushed);
        let taken = lines.take_bytes(usize::MAX).len();
        prop_assert_eq!(taken, pushed);
        prop_assert!(lines.has_room());
    }
}
