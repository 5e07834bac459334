//! What stands inside quotes and angle brackets of an OpenStep property list.

use std::time::{Duration, SystemTime};

/// The typed values, for the help of an error.
pub(crate) const FORMS: &str =
    "typed values are <*I5>, <*R1.5>, <*BY>, <*BN> and <*D2002-03-22 11:30:00 +0100>; data is <0fbd77>";

/// The text that `raw` stands for, and whether the end of the text cut a number short: GNUstep drops such an escape.
/// Fails with the place (offset and length in bytes) of half a surrogate pair.
pub(crate) fn unescape(raw: &str) -> Result<(String, bool), (usize, usize)> {
    let mut out = String::with_capacity(raw.len());
    let mut is_cut = false;
    let mut rest = raw;
    // A first half waits for its second: (its code, where it stands).
    let mut half: Option<(u16, usize)> = None;
    while let Some(character) = rest.chars().next() {
        let at = raw.len() - rest.len();
        let (unit, length) = match character {
            '\\' => escape(&rest[1..]),
            _ => (Unit::Char(character), character.len_utf8()),
        };
        rest = &rest[length..];
        match (half.take(), unit) {
            (None, Unit::Char(character)) => out.push(character),
            (None, Unit::Cut) => is_cut = true,
            (None, Unit::Half(code)) if code < 0xdc00 => half = Some((code, at)),
            (Some((first, _)), Unit::Half(second)) if second >= 0xdc00 => {
                out.extend(char::decode_utf16([first, second]).filter_map(Result::ok));
            }
            (Some((_, start)), _) => return Err((start, at - start)),
            (None, Unit::Half(_)) => return Err((at, length)),
        }
    }
    half.map_or(Ok((out, is_cut)), |(_, start)| Err((start, raw.len() - start)))
}

enum Unit {
    Char(char),
    Half(u16),
    Cut,
}

/// The escape whose text after the backslash is `rest`, and its length with the backslash.
fn escape(rest: &str) -> (Unit, usize) {
    let (letter, digits, radix, most) = match rest.as_bytes() {
        [b'u' | b'U', digits @ ..] => (1, digits, 16, 4),
        digits @ [b'0'..=b'7', ..] => (0, digits, 8, 3),
        _ => return simple_escape(rest),
    };
    let (code, count) = number(digits, radix, most);
    let length = letter + count;
    if count < most && length == rest.len() {
        return (Unit::Cut, length + 1);
    }
    (char::from_u32(u32::from(code)).map_or(Unit::Half(code), Unit::Char), length + 1)
}

fn simple_escape(rest: &str) -> (Unit, usize) {
    let Some(character) = rest.chars().next() else { return (Unit::Char('\\'), 1) };
    let meant = match character {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        other => other,
    };
    (Unit::Char(meant), 1 + character.len_utf8())
}

/// Up to `most` digits, and how many there are.
fn number(digits: &[u8], radix: u16, most: usize) -> (u16, usize) {
    let digits = digits.iter().take(most).map_while(|digit| char::from(*digit).to_digit(u32::from(radix)));
    digits.fold((0, 0), |(sum, count), digit| (sum * radix + u16::try_from(digit).unwrap_or_default(), count + 1))
}

pub(crate) fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        letter => (letter | 0x20) - b'a' + 10,
    }
}

/// The value of `I5`, `R1.5`, `BY` or `D…`.
pub(crate) fn scalar(body: &str) -> Option<plist::Value> {
    let (form, text) = (body.get(..1)?, body.get(1..)?);
    let text = text.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).unwrap_or(text);
    match form {
        "I" => integer(text.trim()),
        "R" => real(text.trim()),
        "B" => text.starts_with(['Y', 'N']).then(|| plist::Value::Boolean(text.starts_with('Y'))),
        "D" => date(text.trim()).map(plist::Value::from),
        _ => None,
    }
}

fn integer(text: &str) -> Option<plist::Value> {
    text.parse::<i64>().map(plist::Value::from).or_else(|_| text.parse::<u64>().map(plist::Value::from)).ok()
}

fn real(text: &str) -> Option<plist::Value> {
    let is_number = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    text.parse::<f64>().ok().filter(|real| is_number && real.is_finite()).map(plist::Value::from)
}

/// `2002-03-22 11:30:00 +0100`.
fn date(text: &str) -> Option<plist::Date> {
    let mut parts = text.split_ascii_whitespace();
    let (day, time, zone) = (parts.next()?, parts.next()?, parts.next()?);
    let [year, month, day] = numbers(day, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let in_bounds = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && (1..=9999).contains(&year)
        && parts.next().is_none();
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset(zone)?;
    let span = Duration::from_secs(seconds.unsigned_abs());
    let instant = if seconds < 0 { SystemTime::UNIX_EPOCH - span } else { SystemTime::UNIX_EPOCH + span };
    in_bounds.then(|| plist::Date::from(instant))
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(digits);
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

fn digits(text: &str) -> Option<i64> {
    let is_short_number = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_short_number)
}

/// Seconds east of Greenwich of `+0100`.
fn offset(zone: &str) -> Option<i64> {
    let (sign, clock) = (zone.get(..1)?, zone.get(1..).filter(|clock| clock.len() == 4)?);
    let seconds = digits(clock.get(..2)?)? * 3600 + digits(clock.get(2..)?)? * 60;
    match sign {
        "+" => Some(seconds),
        "-" => Some(-seconds),
        _ => None,
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_since_epoch(next_year, next_month, 1) - days_since_epoch(year, month, 1)
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that start in March so that leap days come last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let century = year.div_euclid(100);
    year.div_euclid(4) - century + century.div_euclid(4) + 365 * year + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// Base64 with optional white space and optional padding.
pub(crate) fn base64(body: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let unpadded = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(&text);
    let digits = unpadded.iter().map(|byte| base64_digit(*byte)).collect::<Option<Vec<u8>>>()?;
    let is_whole = digits.len() % 4 != 1;
    let bytes = digits.chunks(4).flat_map(|group| {
        let bits = group.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit)) << (6 * (4 - group.len()));
        bits.to_be_bytes().into_iter().skip(1).take(group.len() - 1)
    });
    is_whole.then(|| bytes.collect())
}

fn base64_digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

/// `<0fbd77>`.
pub(crate) fn write_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::from("<");
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out.push('>');
    out
}

/// `<*D2002-03-22 11:30:00 +0000>`. The crate writes `2002-03-22T11:30:00Z`.
pub(crate) fn write_date(date: plist::Date) -> String {
    format!("<*D{} +0000>", date.to_xml_format().replace('T', " ").trim_end_matches('Z'))
}
