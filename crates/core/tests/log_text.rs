//! The text of a log line: whatever goes in, what comes out is one line that reads back as the same.

use loopwright_core::log_text::{
    Stamp, civil, console_inside, console_string, date, float, integer, json_string, time,
};
use proptest::prelude::*;

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).expect("it is text")
}

/// A JSON string read by hand.
fn read(json: &str) -> String {
    let inside = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("it is quoted");
    let mut text = String::new();
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        assert!(character >= ' ' && character != '"', "unescaped {character:?}");
        text.push(if character != '\\' {
            character
        } else {
            match characters.next().expect("an escape has a second half") {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits: String = characters.by_ref().take(4).collect();
                    char::from_u32(u32::from_str_radix(&digits, 16).expect("hex")).expect("a character")
                }
                same @ ('"' | '\\') => same,
                other => panic!("unknown escape {other:?}"),
            }
        });
    }
    text
}

proptest! {
    #[test]
    fn a_json_string_reads_back(text in any::<String>()) {
        prop_assert_eq!(read(&written(|out| json_string(out, &text))), text);
    }

    #[test]
    fn nothing_that_a_terminal_obeys_leaves(text in any::<String>()) {
        for shown in [written(|out| console_inside(out, &text, false)), written(|out| console_string(out, &text))] {
            prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
        }
    }

    #[test]
    fn numbers_read_back(number in any::<i64>(), real in any::<f64>()) {
        prop_assert_eq!(written(|out| integer(out, number)), number.to_string());
        let text = written(|out| float(out, real, true));
        if real.is_finite() {
            prop_assert_eq!(text.parse::<f64>().expect("a number").to_bits(), real.to_bits());
        } else {
            prop_assert!(["\"NaN\"", "\"Infinity\"", "\"-Infinity\""].contains(&text.as_str()));
        }
    }

    #[test]
    fn days_follow_each_other(day in -1_000_000_i64..1_000_000) {
        let (before, after) = (civil(day), civil(day + 1));
        let leap = after.0 % 4 == 0 && (after.0 % 100 != 0 || after.0 % 400 == 0);
        let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        if after.2 > 1 {
            prop_assert_eq!(before, (after.0, after.1, after.2 - 1));
        } else if after.1 > 1 {
            prop_assert_eq!(before, (after.0, after.1 - 1, lengths[after.1 as usize - 2]));
        } else {
            prop_assert_eq!(before, (after.0 - 1, 12, 31));
        }
    }
}

#[test]
fn known_texts() {
    assert_eq!(written(|out| json_string(out, "a\"b\\c\n\u{1}\u{7f}é")), r#""a\"b\\c\n\u0001\u007fé""#);
    assert_eq!(written(|out| console_string(out, "plain")), "plain");
    assert_eq!(written(|out| console_string(out, "two words")), r#""two words""#);
    assert_eq!(written(|out| console_string(out, "")), r#""""#);
    assert_eq!(written(|out| console_inside(out, "\u{1b}[31m\u{9b}1m\u{202e}", false)), r"\x1b[31m\x9b1m\u202e");
    assert_eq!(written(|out| integer(out, i64::MIN)), "-9223372036854775808");
    assert_eq!(written(|out| float(out, 1.0, true)), "1.0");
    assert_eq!(written(|out| float(out, f64::NAN, false)), "NaN");
    assert_eq!(civil(0), (1970, 1, 1));
    assert_eq!(civil(19_782), (2024, 2, 29));
    assert_eq!(written(|out| date(out, 7, 1, 2)), "0007-01-02");
    assert_eq!(written(|out| time(out, 3, 4, 5, 60, false)), "03:04:05.000060");
    let mut stamp = Stamp::default();
    assert_eq!(written(|out| stamp.iso(out, 1_795_301_337, 42)), "2026-11-21T22:48:57.000042Z");
    assert_eq!(written(|out| stamp.iso(out, 1_795_301_337, 999_999)), "2026-11-21T22:48:57.999999Z");
    assert_eq!(written(|out| stamp.short(out, 1_795_301_338, 7_000)), "22:48:58.007");
    assert_eq!(written(|out| stamp.iso(out, -1, 0)), "1969-12-31T23:59:59.000000Z");
}
