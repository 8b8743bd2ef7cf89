//! A unified diff of two texts.

use std::fmt::Write;

/// Lines around a change.
const CONTEXT: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Keep,
    Remove,
    Insert,
}

/// The difference of two texts; empty when there is none.
pub fn unified(path: &str, before: &str, after: &str) -> String {
    let old: Vec<&str> = before.split_inclusive('\n').collect();
    let new: Vec<&str> = after.split_inclusive('\n').collect();
    let steps = steps(&old, &new);
    let changes: Vec<usize> = (0..steps.len()).filter(|&at| steps[at] != Step::Keep).collect();
    let mut text = String::new();
    if changes.is_empty() {
        return text;
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "--- {path}\n+++ {path}");
    for group in changes.chunk_by(|one, next| next - one <= 2 * CONTEXT + 1) {
        let first = group[0].saturating_sub(CONTEXT);
        let last = (group[group.len() - 1] + CONTEXT + 1).min(steps.len());
        let count = |steps: &[Step], not: Step| steps.iter().filter(|step| **step != not).count();
        let (mut from, mut to) = (count(&steps[..first], Step::Insert), count(&steps[..first], Step::Remove));
        let hunk = &steps[first..last];
        let (removed, added) = (count(hunk, Step::Insert), count(hunk, Step::Remove));
        let _ = writeln!(text, "@@ -{} +{} @@", range(from, removed), range(to, added));
        for step in hunk {
            let (sign, line) = match step {
                Step::Keep => (' ', old[from]),
                Step::Remove => ('-', old[from]),
                Step::Insert => ('+', new[to]),
            };
            from += usize::from(*step != Step::Insert);
            to += usize::from(*step != Step::Remove);
            text.push(sign);
            text.push_str(line);
            if !line.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    text
}

/// `12,3`: so many lines from the one after `before` lines; of none, the line before them is named.
fn range(before: usize, count: usize) -> String {
    match count {
        0 => format!("{before},0"),
        1 => format!("{}", before + 1),
        _ => format!("{},{count}", before + 1),
    }
}

/// The shortest way from one list of lines to another: Myers, "An O(ND) Difference Algorithm and Its Variations", 1986.
fn steps(old: &[&str], new: &[&str]) -> Vec<Step> {
    let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (rest_old, rest_new) = (&old[same..], &new[same..]);
    let tail = rest_old.iter().rev().zip(rest_new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&rest_old[..rest_old.len() - tail], &rest_new[..rest_new.len() - tail]);
    let (n, m) = (a.len() as isize, b.len() as isize);
    // Of each diagonal the furthest point, after 0, 1, 2... changes.
    let width = (n + m) as usize;
    let at = |k: isize| (k + n + m + 1) as usize;
    let mut furthest = vec![0isize; 2 * width + 3];
    let mut trace = vec![];
    'search: for d in 0..=(n + m) {
        trace.push(furthest.clone());
        for k in (-d..=d).step_by(2) {
            let down = k == -d || (k != d && furthest[at(k - 1)] < furthest[at(k + 1)]);
            let mut x = if down { furthest[at(k + 1)] } else { furthest[at(k - 1)] + 1 };
            while x < n && x - k < m && a[x as usize] == b[(x - k) as usize] {
                x += 1;
            }
            furthest[at(k)] = x;
            if x >= n && x - k >= m {
                break 'search;
            }
        }
    }
    let mut middle = vec![];
    let (mut x, mut y) = (n, m);
    for (d, furthest) in trace.iter().enumerate().rev() {
        let (d, k) = (d as isize, x - y);
        let down = k == -d || (k != d && furthest[at(k - 1)] < furthest[at(k + 1)]);
        let from = if down { k + 1 } else { k - 1 };
        let (px, py) = if d == 0 { (0, 0) } else { (furthest[at(from)], furthest[at(from)] - from) };
        while x > px && y > py && (d == 0 || (x, y) != if down { (px, py + 1) } else { (px + 1, py) }) {
            middle.push(Step::Keep);
            (x, y) = (x - 1, y - 1);
        }
        if d > 0 {
            middle.push(if down { Step::Insert } else { Step::Remove });
            (x, y) = (px, py);
        }
    }
    middle.reverse();
    let keep = |count| std::iter::repeat_n(Step::Keep, count);
    keep(same).chain(middle).chain(keep(tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Step, steps, unified};

    #[test]
    fn hunks_are_what_git_makes() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16\n";
        let after = before.replace("2\n3", "2\nnew\n3").replace("\n15\n", "\nfifteen\n");
        let expected = "--- a.py\n+++ a.py\n@@ -1,5 +1,6 @@\n 1\n 2\n+new\n 3\n 4\n 5\n\
            @@ -12,5 +13,5 @@\n 12\n 13\n 14\n-15\n+fifteen\n 16\n";
        assert_eq!(unified("a.py", before, &after), expected);
        assert_eq!(unified("a.py", before, before), "");
        assert_eq!(unified("a.py", "", "x"), "--- a.py\n+++ a.py\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n");
    }

    #[test]
    fn the_way_leads_from_one_to_the_other() {
        // All pairs of short texts over two lines.
        let texts: Vec<Vec<&str>> = (0..64u32)
            .map(|bits| (0..bits % 7).map(|i| if bits >> i & 1 == 1 { "a" } else { "b" }).collect())
            .collect();
        for old in &texts {
            for new in &texts {
                let (mut from, mut to) = (old.iter(), new.iter());
                for step in steps(old, new) {
                    match step {
                        Step::Keep => assert_eq!(from.next(), to.next()),
                        Step::Remove => assert!(from.next().is_some()),
                        Step::Insert => assert!(to.next().is_some()),
                    }
                }
                assert_eq!((from.next(), to.next()), (None, None), "{old:?} {new:?}");
            }
        }
    }
}
