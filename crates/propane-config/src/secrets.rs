//! What must never be shown, and how it is masked.
//!
//! A secret is a value whose key says so, or the user information of a URL. Source lines are masked by their words
//! alone, because the file around them may be one that could not be parsed.

use std::ops::Range;

/// What stands in place of a secret.
pub const MASK: &str = "***";

/// Whether the value under a key is secret. Only the last part of the key matters.
pub fn is_secret_key(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    let ends_in = |word: &str| {
        let start = name.len().checked_sub(word.len());
        start.and_then(|start| name.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(word))
    };
    ["secret", "password", "token"].into_iter().any(ends_in) || name.eq_ignore_ascii_case("connectionString")
}

/// The text with the user information of every URL in it masked: `postgres://***@db/app`.
pub fn mask_url_users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut shown = 0;
    for user in url_users(text.as_bytes()) {
        out.push_str(text.get(shown..user.start).unwrap_or_default());
        out.push_str(MASK);
        shown = user.end;
    }
    out.push_str(text.get(shown..).unwrap_or_default());
    out
}

/// Whether anything in the text would be masked.
pub fn has_url_user(text: &str) -> bool {
    !url_users(text.as_bytes()).is_empty()
}

/// What stands between `://` and the last `@` before the path of a URL.
fn url_users(text: &[u8]) -> Vec<Range<usize>> {
    let mut users = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].windows(3).position(|three| three == b"://") {
        let start = at + found + 3;
        let is_end =
            |byte: &u8| matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'\\') || byte.is_ascii_whitespace();
        let length = text[start..].iter().position(is_end).unwrap_or(text.len() - start);
        if let Some(sign) = text[start..start + length].iter().rposition(|byte| *byte == b'@').filter(|sign| *sign > 0)
        {
            users.push(start..start + sign);
        }
        at = start;
    }
    users
}

/// Everything secret in the text of a property list: the values of secret keys and the users of URLs.
pub(crate) fn secret_spans(text: &[u8]) -> Vec<Range<usize>> {
    let mut spans = url_users(text);
    let mut words = Words { text, at: 0 };
    let mut key: &[u8] = b"";
    while let Some(word) = words.next() {
        // A colon is no separator here, but people who bring JSON or YAML write one.
        let word = &text[word];
        let before = word.strip_suffix(b":").filter(|before| !before.is_empty());
        let is_separator = matches!(word, b"=" | b":") || before.is_some();
        if is_separator && is_secret_key(&String::from_utf8_lossy(before.unwrap_or(key))) {
            spans.extend(words.value());
        } else {
            key = word.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(word);
        }
    }
    spans
}

/// Words, quoted texts and single symbols, in text that need not be a sound property list. Comments are read like
/// everything else, because they hold what was commented out.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
}

impl Words<'_> {
    fn next(&mut self) -> Option<Range<usize>> {
        let is_symbol = |byte: u8| matches!(byte, b'=' | b';' | b'{' | b'}' | b'(' | b')' | b',' | b'"');
        let space = self.text[self.at..].iter().position(|byte| !byte.is_ascii_whitespace())?;
        let start = self.at + space;
        self.at = match self.text[start] {
            b'"' => self.end_of_quoted(start),
            byte if is_symbol(byte) => start + 1,
            _ => {
                let ends = |byte: &u8| is_symbol(*byte) || byte.is_ascii_whitespace();
                self.text[start..].iter().position(ends).map_or(self.text.len(), |length| start + length)
            }
        };
        Some(start..self.at)
    }

    fn end_of_quoted(&self, start: usize) -> usize {
        let mut at = start + 1;
        while let Some(byte) = self.text.get(at) {
            match byte {
                b'"' => return at + 1,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.text.len()
    }

    /// All words of the value that starts here: up to the `;` that ends it, the end of what it stands in, or, where the
    /// `;` was forgotten, the next key that starts a line.
    fn value(&mut self) -> Vec<Range<usize>> {
        let (mut spans, mut depth) = (Vec::<Range<usize>>::new(), 0_usize);
        loop {
            let before = self.at;
            let Some(word) = self.next() else { return spans };
            match &self.text[word.clone()] {
                b"{" | b"(" => depth += 1,
                b"}" | b")" if depth > 0 => depth -= 1,
                b"}" | b")" | b";" if depth == 0 => {
                    self.at = before;
                    return spans;
                }
                b"=" if depth == 0 && spans.len() > 1 && spans.last().is_some_and(|word| self.starts_line(word)) => {
                    self.at = spans.pop().map_or(before, |key| key.start);
                    return spans;
                }
                b"=" | b";" | b"," => {}
                _ => spans.push(word),
            }
        }
    }

    fn starts_line(&self, word: &Range<usize>) -> bool {
        let before = self.text[..word.start].iter().rev();
        before.take_while(|byte| byte.is_ascii_whitespace()).any(|byte| *byte == b'\n')
    }
}

/// The same tree with every secret in it masked, and whether there was one.
pub fn masked_tree(tree: &plist::Dictionary) -> (plist::Dictionary, bool) {
    let mut found = false;
    let pairs = tree.iter().map(|(key, value)| (key.clone(), masked(value, is_secret_key(key), &mut found)));
    (pairs.collect(), found)
}

fn masked(value: &plist::Value, secret: bool, found: &mut bool) -> plist::Value {
    match value {
        plist::Value::Dictionary(pairs) => {
            let pairs = pairs.iter();
            let pairs = pairs.map(|(key, value)| (key.clone(), masked(value, secret || is_secret_key(key), found)));
            plist::Value::Dictionary(pairs.collect())
        }
        plist::Value::Array(items) => {
            plist::Value::Array(items.iter().map(|item| masked(item, secret, found)).collect())
        }
        _ if secret => {
            *found = true;
            plist::Value::String(MASK.to_owned())
        }
        plist::Value::String(text) => {
            *found |= has_url_user(text);
            plist::Value::String(mask_url_users(text))
        }
        typed => typed.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text with everything secret in it overwritten.
    fn overwritten(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        secret_spans(text.as_bytes()).into_iter().flatten().for_each(|at| bytes[at] = b'*');
        String::from_utf8(bytes).expect("only whole words are overwritten")
    }

    #[test]
    fn secrets_are_recognised_in_text_that_need_not_be_sound() {
        for (text, shown) in [
            ("{ secret = abc; port = 1; }", "{ secret = ***; port = 1; }"),
            ("{ \"apiToken\" = \"a;b\"; x = 1; }", "{ \"apiToken\" = *****; x = 1; }"),
            ("// password = abc;", "// password = ***;"),
            ("password = abc\n  port = 1;", "password = ***\n  port = 1;"),
            ("password = a b=c; port = 1;", "password = * *=*; port = 1;"),
            ("password = a== ; port = 1;", "password = *== ; port = 1;"),
            ("{\"secret\": \"abc\", \"port\": 1}", "{\"secret\": *****, ******* *}"),
            ("secret: abc", "secret: ***"),
            ("secret = { a = (b, c); }; d = e;", "secret = { * = (*, *); }; d = e;"),
            ("secret = \"never closed", "secret = *************"),
            ("url = \"redis://me:pw@host/0\";", "url = \"redis://*****@host/0\";"),
            ("secretary = abc; tokens = 2;", "secretary = abc; tokens = 2;"),
        ] {
            assert_eq!(overwritten(text), shown);
        }
    }

    #[test]
    fn users_of_urls_are_masked_wherever_they_stand() {
        assert_eq!(
            mask_url_users("a postgres://u:p@h/d b https://h/?q=a@b"),
            "a postgres://***@h/d b https://h/?q=a@b"
        );
        assert_eq!(mask_url_users("redis://:p@ss@h"), "redis://***@h", "up to the last @");
        assert!(!has_url_user("mail me@example.org, see http://example.org/"));
    }

    #[test]
    fn keys_are_secret_by_their_last_part() {
        for key in ["session.secret", "auth.bearerSecret", "x.PASSWORD", "database.connectionString", "a.b.apiToken"] {
            assert!(is_secret_key(key), "{key}");
        }
        for key in ["secret.name", "secretary", "tokens", "connection", "", "é"] {
            assert!(!is_secret_key(key), "{key}");
        }
    }
}
