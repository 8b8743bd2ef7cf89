//! The text of a log line: JSON and console strings, numbers, times. What is in a line, and in which order, is the
//! binding's.
//!
//! **Whatever goes in, one line comes out**: no line break, no control character, nothing a terminal would obey. JSON is
//! RFC 8259's, which has no NaN: not-a-number and the infinities are strings, as in the JSON of protocol buffers.

use std::fmt::Write as _;

/// Appends a JSON string, quotes included.
#[inline]
pub fn json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    json_inside(out, text);
    out.push(b'"');
}

/// Appends what stands between the quotes of a JSON string.
#[inline]
pub fn json_inside(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if ESCAPE[byte as usize] {
            out.extend_from_slice(&bytes[start..at]);
            start = at + 1;
            escape(out, byte, b'u');
        }
    }
    out.extend_from_slice(&bytes[start..]);
}

/// The bytes that JSON does not allow inside of a string, and DEL, which terminals obey.
static ESCAPE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table[0x7F] = true;
    table
};

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cold]
fn escape(out: &mut Vec<u8>, byte: u8, kind: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(if kind == b'u' { b"\\u00" } else { b"\\x" });
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends text for a terminal: control characters, C1 ones included, are escaped; quotes and backslashes only if
/// `quoted`.
pub fn console_inside(out: &mut Vec<u8>, text: &str, quoted: bool) {
    let mut start = 0;
    for (at, character) in text.char_indices() {
        let escaped = character.is_control()
            || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
            || (quoted && matches!(character, '"' | '\\'));
        if escaped {
            out.extend_from_slice(&text.as_bytes()[start..at]);
            start = at + character.len_utf8();
            match u8::try_from(u32::from(character)) {
                Ok(byte) => escape(out, byte, b'x'),
                Err(_) => out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes()),
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[start..]);
}

/// Appends a field's text for a terminal, in quotes where it could be taken for more than one.
pub fn console_string(out: &mut Vec<u8>, text: &str) {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=');
    if !text.is_empty() && text.bytes().all(|byte| plain(byte) || !byte.is_ascii()) {
        console_inside(out, text, false);
    } else {
        out.push(b'"');
        console_inside(out, text, true);
        out.push(b'"');
    }
}

/// Appends a whole number.
#[inline]
pub fn integer(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a float: the shortest digits that read back as the same number. `quote`: what JSON has no number for is put
/// in quotes.
pub fn float(out: &mut Vec<u8>, number: f64, quote: bool) {
    let word = match number {
        _ if number.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => {
            _ = write!(Out(out), "{number:?}");
            return;
        }
    };
    let quote: &[u8] = if quote { b"\"" } else { b"" };
    [quote, word.as_bytes(), quote].iter().for_each(|part| out.extend_from_slice(part));
}

/// What is written to it as text is appended.
struct Out<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Two digits.
fn two(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&[b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
}

/// Appends `2026-11-21`.
pub fn date(out: &mut Vec<u8>, year: i64, month: u32, day: u32) {
    if (0..=9999).contains(&year) {
        two(out, (year / 100) as u32);
        two(out, (year % 100) as u32);
    } else {
        integer(out, year);
    }
    out.push(b'-');
    two(out, month);
    out.push(b'-');
    two(out, day);
}

/// Appends `22:48:57`, and `.123456` unless that is zero and not `always`.
pub fn time(out: &mut Vec<u8>, hour: u32, minute: u32, second: u32, micros: u32, always: bool) {
    two(out, hour);
    out.push(b':');
    two(out, minute);
    out.push(b':');
    two(out, second);
    if micros > 0 || always {
        out.push(b'.');
        two(out, micros / 10_000);
        two(out, micros / 100 % 100);
        two(out, micros % 100);
    }
}

/// The year, month and day that is so many days after 1 January 1970 (Howard Hinnant's `civil_from_days`).
pub fn civil(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = (if shifted < 10 { shifted + 3 } else { shifted - 9 }) as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The time of day in UTC, as it stands in a line; what does not change within a second is kept.
#[derive(Clone, Debug)]
pub struct Stamp {
    second: i64,
    /// `2026-11-21T22:48:57`
    text: Vec<u8>,
}

impl Default for Stamp {
    fn default() -> Self {
        Self::UNSET
    }
}

impl Stamp {
    /// One that has shown nothing yet.
    pub const UNSET: Self = Self { second: i64::MIN, text: Vec::new() };

    /// Appends `2026-11-21T22:48:57.123456Z`.
    #[inline]
    pub fn iso(&mut self, out: &mut Vec<u8>, seconds: i64, micros: u32) {
        self.turn_to(seconds);
        out.extend_from_slice(&self.text);
        out.push(b'.');
        two(out, micros / 10_000);
        two(out, micros / 100 % 100);
        two(out, micros % 100);
        out.push(b'Z');
    }

    /// Appends `22:48:57.123`, for people who know the day.
    pub fn short(&mut self, out: &mut Vec<u8>, seconds: i64, micros: u32) {
        self.turn_to(seconds);
        out.extend_from_slice(&self.text[self.text.len() - 8..]);
        out.push(b'.');
        out.push(b'0' + (micros / 100_000) as u8);
        two(out, micros / 1_000 % 100);
    }

    #[inline]
    fn turn_to(&mut self, second: i64) {
        if self.second != second {
            let (year, month, day) = civil(second.div_euclid(86_400));
            let of_day = second.rem_euclid(86_400) as u32;
            self.second = second;
            self.text.clear();
            date(&mut self.text, year, month, day);
            self.text.push(b'T');
            time(&mut self.text, of_day / 3_600, of_day / 60 % 60, of_day % 60, 0, false);
        }
    }
}
