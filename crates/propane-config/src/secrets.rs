//! What must never be shown, and how it is masked.
//!
//! A secret is a value whose key says so, or a part of one ([`crate::embedded`]). Source lines are masked by their words
//! alone, because the file around them may be one that could not be parsed.

use std::ops::Range;

use crate::embedded::{holds_secret, mask_within, secrets_within};
use crate::openstep::unescape;

/// What stands in place of a secret.
pub const MASK: &str = "***";

/// How the names of secrets end, in lower case, without separators and in the singular. What is called a key may be
/// harmless, so it counts only where its name says what it opens.
const SECRET_ENDINGS: [&str; 15] = [
    "secret",
    "password",
    "passwd",
    "passphrase",
    "token",
    "credential",
    "connectionstring",
    "apikey",
    "accesskey",
    "privatekey",
    "secretkey",
    "secretkeybase",
    "signingkey",
    "encryptionkey",
    "masterkey",
];

/// Whether the value under a key is secret. Only the last part of the key matters. Where there is none, a comment that
/// was not meant to may have swallowed it, and nobody knows what it was.
pub fn is_secret_key(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    if name.is_empty() {
        return true;
    }
    let compact: String = name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
    let singular = compact.strip_suffix('s').unwrap_or(&compact);
    let ends = |name: &str| SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending));
    let is_pass = ["pass", "pwd"].into_iter().any(|word| last_word(name).eq_ignore_ascii_case(word));
    !is_limit(name) && (is_pass || ends(&compact) || ends(singular))
}

/// `Pass` of `smtpPass`, `PASS` of `DB_PASS`, and all of `compass`.
fn last_word(name: &str) -> &str {
    let bytes = name.as_bytes();
    let starts_word = |at: &usize| match (bytes[at - 1], bytes[*at]) {
        (b'_' | b'-', _) => true,
        (before, first) => before.is_ascii_lowercase() && first.is_ascii_uppercase(),
    };
    (1..bytes.len()).rfind(starts_word).and_then(|at| name.get(at..)).unwrap_or(name)
}

/// Whether a name is that of a number of things: `maxTokens`, `min-tokens`.
fn is_limit(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let rest = ["max", "min"].iter().find_map(|limit| lower.strip_prefix(limit)).and(name.get(3..));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase() || matches!(c, '_' | '-')))
}

/// What is secret in a text.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// Each of them, by where it starts.
    pub(crate) each: Vec<Range<usize>>,
    /// What they cover together, without overlaps.
    covered: Vec<Range<usize>>,
}

impl Secrets {
    /// Everything secret in the text of a property list: the values of secret keys, and what is secret within others.
    ///
    /// Where the text is not sound, nobody knows where its quotes and comments end. It is read in all ways that it could
    /// be meant, and what is secret in one of them is secret.
    pub(crate) fn of(text: &[u8], is_sound: bool) -> Self {
        let mut each = secrets_within(text);
        each.extend(xml_values(text));
        let quotes: &[_] =
            if is_sound { &[Quotes::Pair] } else { &[Quotes::Pair, Quotes::PairOnLine, Quotes::Nothing] };
        for quotes in quotes {
            for skips_comments in [false, true] {
                Words { text, at: 0, skips_comments, quotes: *quotes, line_end: 0, secrets: &mut each }.find();
            }
        }
        each.sort_unstable_by_key(|secret| (secret.start, secret.end));
        each.dedup();
        let mut covered = Vec::<Range<usize>>::new();
        for secret in &each {
            match covered.last_mut() {
                Some(last) if secret.start <= last.end => last.end = last.end.max(secret.end),
                _ => covered.push(secret.clone()),
            }
        }
        Self { each, covered }
    }

    /// What of them lies in a part of the text.
    pub(crate) fn covered(&self, part: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = self.covered.partition_point(|secret| secret.end <= part.start);
        let within = self.covered[first..].iter().take_while(move |secret| secret.start < part.end);
        within.map(move |secret| secret.start.max(part.start)..secret.end.min(part.end))
    }

    /// Those that start in a part of the text.
    pub(crate) fn starting(&self, part: &Range<usize>) -> &[Range<usize>] {
        let at = |place: usize| self.each.partition_point(|secret| secret.start < place);
        &self.each[at(part.start)..at(part.end)]
    }
}

/// Everything after an XML key that is secret: a file of tags that was not recognised as one is quoted like any other.
fn xml_values(text: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    while let Some(found) = text[at..].windows(5).position(|five| five == b"<key>") {
        let start = at + found + 5;
        let end = start + text[start..].iter().position(|byte| *byte == b'<')?;
        if is_secret_key(String::from_utf8_lossy(&text[start..end]).trim()) {
            return Some(end..text.len());
        }
        at = end;
    }
    None
}

/// Words, quoted texts and single symbols, in text that need not be a sound property list.
struct Words<'a> {
    text: &'a [u8],
    at: usize,
    /// Comments are no words. Otherwise they are read like everything else, because they hold what was commented out.
    skips_comments: bool,
    quotes: Quotes,
    /// The end of the line that is secret up to there.
    line_end: usize,
    /// What was found.
    secrets: &'a mut Vec<Range<usize>>,
}

/// What double quotes mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// Two of them enclose a text.
    Pair,
    /// The same, but only on one line: further up or down one was forgotten.
    PairOnLine,
    /// No more than spaces, because any of them may be one too many. Then a secret reaches to the end of its line.
    Nothing,
}

impl Words<'_> {
    fn find(mut self) {
        let text = self.text;
        let (mut key, mut before_comment): (&[u8], &[u8]) = (b"", b"");
        while let Some(range) = self.next() {
            let word = &text[range.clone()];
            let is_symbol = matches!(word, b"{" | b"}" | b"(" | b")" | b";" | b"," | b"=" | b":");
            // A colon is no separator here, but people who bring JSON or YAML write one.
            let colon = word.iter().position(|byte| *byte == b':').filter(|at| *at > 0 && !word.starts_with(b"\""));
            if self.quotes == Quotes::Nothing && is_secret(colon.map_or(word, |colon| &word[..colon])) {
                self.add_line(range.end);
            }
            if hides_secret(word) {
                self.secrets.push(range.clone());
            }
            if word.starts_with(b"/*") {
                before_comment = key;
            } else if key.ends_with(b"*/") {
                key = before_comment;
            }
            let is_missing = matches!(key, b"" | b"{" | b"}" | b"(" | b")" | b";" | b",");
            if matches!(word, b"=" | b":") && is_missing {
                self.add_values();
                self.at = range.end; // there may be a key in it
            } else if matches!(word, b"=" | b":") && is_secret(key) {
                self.add_values();
            } else if let Some(colon) = colon.filter(|colon| is_secret(&word[..*colon])) {
                let rest = range.start + colon + 1..range.end;
                self.secrets.extend((!rest.is_empty()).then_some(rest));
                self.add_values();
            } else if self.skips_comments && !is_symbol && !key.is_empty() && is_secret(key) {
                // The sign between key and value is missing. In a comment that would be any two words.
                self.secrets.push(range);
            }
            key = word;
        }
    }

    /// The rest of the line, without the signs that it starts with, and of the lines after it that the value may go on
    /// in: up to one at whose end something ends, or to the next entry.
    fn add_line(&mut self, start: usize) {
        if start < self.line_end {
            return;
        }
        let rest = &self.text[start..];
        let is_end = |(at, byte): (usize, &u8)| {
            let ends = || matches!(rest[..at].trim_ascii_end().last(), Some(b';' | b'{' | b'}' | b'(' | b')' | b','));
            *byte == b'\n' && (ends() || is_entry(&rest[at + 1..]))
        };
        let length = rest.iter().enumerate().position(is_end);
        self.line_end = length.map_or(self.text.len(), |length| start + length);
        let signs = rest.iter().take_while(|byte| matches!(byte, b' ' | b'=' | b'"' | b':')).count();
        if start + signs < self.line_end {
            self.secrets.push(start + signs..self.line_end);
        }
    }

    fn next(&mut self) -> Option<Range<usize>> {
        self.skip_space();
        let start = self.at;
        let first = *self.text.get(start)?;
        let is_symbol = |byte: u8| matches!(byte, b'=' | b';' | b'{' | b'}' | b'(' | b')' | b',' | b'"');
        let ends = |byte: &u8| is_symbol(*byte) || byte.is_ascii_whitespace();
        let bare = || self.text[start..].iter().position(ends).map_or(self.text.len(), |length| start + length);
        self.at = match first {
            b'"' => self.end_of_quoted(start),
            b'\'' => self.end_of_single_quoted(start).unwrap_or_else(bare),
            byte if is_symbol(byte) => start + 1,
            _ => bare(),
        };
        Some(start..self.at)
    }

    fn skip_space(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'"' && self.quotes == Quotes::Nothing;
            let space = rest.iter().position(|byte| !is_space(byte)).unwrap_or(rest.len());
            self.at += space;
            let end: &[u8] = match &rest[space..] {
                [b'/', b'/', ..] if self.skips_comments => b"\n",
                [b'/', b'*', ..] if self.skips_comments => b"*/",
                _ => return,
            };
            let comment = &self.text[self.at + 2..];
            let length = comment.windows(end.len()).position(|window| window == end);
            self.at = length.map_or(self.text.len(), |length| self.at + 2 + length + end.len());
        }
    }

    fn end_of_quoted(&self, start: usize) -> usize {
        let mut at = start + 1;
        while let Some(byte) = self.text.get(at) {
            match byte {
                b'"' => return at + 1,
                b'\n' if self.quotes == Quotes::PairOnLine => return at,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.text.len()
    }

    /// Where the text in single quotes ends, which many write. It has to end on its line.
    fn end_of_single_quoted(&self, start: usize) -> Option<usize> {
        let rest = &self.text[start + 1..];
        let length = rest.iter().position(|byte| matches!(byte, b'\'' | b'\n'))?;
        (rest[length] == b'\'').then_some(start + 1 + length + 1)
    }

    /// The value that starts here. What was commented out may have had comments itself.
    fn add_values(&mut self) {
        let (start, skips_comments) = (self.at, self.skips_comments);
        if !skips_comments {
            self.skips_comments = true;
            self.add_value();
            (self.at, self.skips_comments) = (start, false);
        }
        self.add_value();
    }

    /// All words of the value that starts here: up to the `;` that ends it, the end of what it stands in, or, where the
    /// `;` was forgotten, the next key that starts a line.
    fn add_value(&mut self) {
        let (mut last, mut words, mut depth) = (None::<Range<usize>>, 0_usize, 0_usize);
        loop {
            let before = self.at;
            let Some(word) = self.next() else { break };
            match &self.text[word.clone()] {
                b"{" | b"(" => depth += 1,
                b"}" | b")" if depth > 0 => depth -= 1,
                b"}" | b")" | b";" if depth == 0 => {
                    self.at = before;
                    break;
                }
                b"=" if depth == 0 && words > 1 && last.as_ref().is_some_and(|word| self.starts_line(word)) => {
                    self.at = last.take().map_or(before, |key| key.start);
                    break;
                }
                b"=" | b";" | b"," => {}
                _ => {
                    words += 1;
                    let previous = last.replace(word);
                    self.add_word(previous);
                }
            }
        }
        self.add_word(last);
    }

    /// Words with nothing but space between them are one secret.
    fn add_word(&mut self, word: Option<Range<usize>>) {
        let Some(word) = word else { return };
        match self.secrets.last_mut() {
            Some(last) if last.end < word.start && self.text[last.end..word.start].trim_ascii().is_empty() => {
                last.end = word.end;
            }
            _ => self.secrets.push(word),
        }
    }

    fn starts_line(&self, word: &Range<usize>) -> bool {
        let before = self.text[..word.start].iter().rev();
        before.take_while(|byte| byte.is_ascii_whitespace()).any(|byte| *byte == b'\n')
    }
}

/// Whether the first line starts with a word and a ` = `, as every entry should.
fn is_entry(text: &[u8]) -> bool {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_start();
    let word = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    line[word..].trim_ascii_start().starts_with(b"= ")
}

/// Whether a word of the text has a secret within once its escapes are read: `http:\/\/me:pw@host`.
fn hides_secret(word: &[u8]) -> bool {
    word.contains(&b'\\') && unescape(&String::from_utf8_lossy(word)).is_ok_and(|(text, _)| holds_secret(&text))
}

/// Whether a word of the text is a secret key, however it is quoted and escaped.
fn is_secret(word: &[u8]) -> bool {
    let word = word.strip_prefix(b"\"").map_or(word, |rest| rest.strip_suffix(b"\"").unwrap_or(rest));
    let word = word.strip_prefix(b"'").map_or(word, |rest| rest.strip_suffix(b"'").unwrap_or(rest));
    let text = String::from_utf8_lossy(word);
    is_secret_key(&text) || text.contains('\\') && unescape(&text).is_ok_and(|(text, _)| is_secret_key(&text))
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
            *found |= holds_secret(text);
            plist::Value::String(mask_within(text))
        }
        typed => typed.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text with everything secret in it overwritten.
    fn overwritten(text: &str, is_sound: bool) -> String {
        let mut bytes = text.as_bytes().to_vec();
        Secrets::of(text.as_bytes(), is_sound).covered(0..text.len()).for_each(|secret| bytes[secret].fill(b'*'));
        String::from_utf8(bytes).expect("only whole words are overwritten")
    }

    #[test]
    fn secrets_are_recognised_in_text_that_need_not_be_sound() {
        for (text, shown) in [
            ("{ secret = abc; port = 1; }", "{ secret = ***; port = 1; }"),
            ("{ \"apiToken\" = \"a;b\"; x = 1; }", "{ \"apiToken\" = *****; x = 1; }"),
            ("// password = abc;", "// password = ***;"),
            ("password = abc\n  port = 1;", "password = ***\n  port = 1;"),
            ("password = a b=c; port = 1;", "password = ***=*; port = 1;"),
            ("password = a== ; port = 1;", "password = *== ; port = 1;"),
            ("{\"secret\": \"abc\", \"port\": 1}", "{\"secret\": *****, *********}"),
            ("secret: abc", "secret: ***"),
            ("secret = { a = (b, c); }; d = e;", "secret = { * = (*, *); }; d = e;"),
            ("secret = \"never closed", "secret = *************"),
            ("url = \"redis://me:pw@host/0\";", "url = \"redis://*****@host/0\";"),
            ("secretary = abc; maxTokens = 2;", "secretary = abc; maxTokens = 2;"),
            ("tokens = (abc, d);", "tokens = (***, *);"),
            (r#"cmd = "run --token=abc {fd}";"#, r#"cmd = "run --token=*** {fd}";"#),
            ("// DB_PASSWORD=abc run", "// DB_PASSWORD=*******"),
            // Keys as they can be written.
            ("\"pass\\U0077ord\" = abc;", "\"pass\\U0077ord\" = ***;"),
            ("\"db.apiToken\" = abc;", "\"db.apiToken\" = ***;"),
            // Users of URLs as they can be written.
            (r#"url = "http:\/\/me:pw@host";"#, "url = *********************;"),
            (r#"url = "http\U003a//me:pw@host";"#, "url = ************************;"),
            (r#"url = "http://me:pw\100host"; x = 1;"#, "url = **********************; x = 1;"),
            // Comments before, in and after the value, and around the key.
            ("/* open password /* x */ = (abc, d); port = 1;", "/* open password /* x */ = (***, *); port = 1;"),
            ("password /* x */ = abc;", "password /* x */ = ***;"),
            ("password = // not; this\n  abc;", "password = ******; this\n  ***;"),
            ("x = 1; // password /* x */ = abc;", "x = 1; // password /* x */ = ***;"),
            ("x = 1; // password = // not; this\n  abc;", "x = 1; // password = ******; this\n  ***;"),
            ("name = a; // the secret must be set\nport = 1;", "name = a; // the secret must be set\nport = 1;"),
            // Signs that are missing or others.
            ("password abc; port = 1;", "password ***; port = 1;"),
            ("password == abc; port = 1;", "password == ***; port = 1;"),
            ("password := abc; port = 1;", "password := ***; port = 1;"),
            ("password:abc; port = 1;", "password:***; port = 1;"),
            ("password = 'a b; c'; port = 1;", "password = ********; port = 1;"),
            ("password = \"a\nb\"; port = 1;", "password = *****; port = 1;"),
            ("<dict><key>password</key><string>a", "<dict><key>password***************"),
        ] {
            assert_eq!(overwritten(text, true), shown, "{text}");
        }
    }

    #[test]
    fn a_quote_too_few_or_too_many_uncovers_nothing() {
        for (text, shown) in [
            ("host = \"x;\n  password = \"abc\";\nport = 1;", "host = \"x;\n  password = ******\nport = 1;"),
            ("\"password = x abc; port = 1;\nport = 1;", "\"password = ****************\nport = 1;"),
            ("\"password = \"a;abc\";\nport = 1;", "\"password = \"*******\nport = 1;"),
            ("\"x\" \"password\"\n  abc\";\nport = 1;", "\"x\" \"password\"********\nport = 1;"),
            ("\"= password = \"a;abc\";\nport = 1;", "\"= ******** = \"*******\nport = 1;"),
            ("\"password: \"a;abc\";\nport = 1;", "\"password: \"*******\nport = 1;"),
        ] {
            assert_eq!(overwritten(text, false), shown, "{text}");
        }
    }

    #[test]
    fn keys_are_secret_by_their_last_part() {
        for key in "session.secret auth.bearerSecret x.PASSWORD database.connectionString a.b.apiToken a. passwords \
                    auth.tokens clientSecrets credentials smtp.pass smtpPass DB_PASS pwd passwd passphrase apiKey api_key API-KEYS \
                    secretKeyBase SECRET_KEY_BASE aws.secretAccessKey privateKeys minioSecrets"
            .split(' ')
            .chain([""])
        {
            assert!(is_secret_key(key), "{key}");
        }
        for key in "secret.name secretary connection é maxTokens max-tokens MIN_TOKENS key keys monkey bypass \
                    accessKeyId tokenURL passwordFile compass publicKey cacheKey secretsDirectory"
            .split(' ')
        {
            assert!(!is_secret_key(key), "{key}");
        }
    }
}
