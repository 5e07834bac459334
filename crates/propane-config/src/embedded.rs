//! Secrets within a text: the users of URLs, and what command lines, queries and connection strings give a secret name.

use std::ops::Range;

use crate::secrets::{MASK, is_secret_key};

/// The text with the secrets in it masked: `postgres://***@db/app`, `app --token=***`.
pub(crate) fn mask_within(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut shown = 0;
    for secret in secrets_within(text.as_bytes()) {
        if secret.start >= shown {
            out.push_str(text.get(shown..secret.start).unwrap_or_default());
            out.push_str(MASK);
        }
        shown = shown.max(secret.end);
    }
    out.push_str(text.get(shown..).unwrap_or_default());
    out
}

/// Whether anything in the text would be masked.
pub(crate) fn holds_secret(text: &str) -> bool {
    !secrets_within(text.as_bytes()).is_empty()
}

/// Where they are, by their starts.
pub(crate) fn secrets_within(text: &[u8]) -> Vec<Range<usize>> {
    let mut secrets = url_users(text);
    secrets.extend(assigned(text));
    secrets.sort_unstable_by_key(|secret| (secret.start, secret.end));
    secrets
}

/// How far a password that holds what should have been escaped is looked for, in bytes.
const LONGEST_UNESCAPED: usize = 512;

/// What stands between `://` and the last `@` before the path of a URL. A password may hold what should have been
/// escaped, so that a part before the path which is no host with a port reaches up to the last `@` of its word.
fn url_users(text: &[u8]) -> Vec<Range<usize>> {
    let mut users = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].windows(3).position(|three| three == b"://") {
        let start = at + found + 3;
        let is_end =
            |byte: &u8| matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'\\') || byte.is_ascii_whitespace();
        let authority = &text[start..];
        let authority = &authority[..authority.iter().position(is_end).unwrap_or(authority.len())];
        let user = last_sign(authority).or_else(|| {
            if may_be_host(authority) {
                return None;
            }
            let word = text[start..].iter().take(LONGEST_UNESCAPED).take_while(|byte| !byte.is_ascii_whitespace());
            last_sign(&text[start..start + word.count()])
        });
        users.extend(user.map(|length| start..start + length));
        at = start;
    }
    users
}

fn last_sign(text: &[u8]) -> Option<usize> {
    text.iter().rposition(|byte| *byte == b'@').filter(|sign| *sign > 0)
}

/// Whether this can be a host, with or without a port: what follows its first colon is a number, or it is an IPv6
/// address in brackets. A colon with nothing behind it is rather followed by a password that begins with a `/` or `#`.
fn may_be_host(authority: &[u8]) -> bool {
    let after_colon = authority.splitn(2, |byte| *byte == b':').nth(1);
    authority.starts_with(b"[")
        || after_colon.is_none_or(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit))
}

/// What stands behind a secret name: `--token=abc`, `--token abc`, `DB_PASSWORD=abc`, `?password=abc`, `"token":"abc"`,
/// `Authorization: Bearer abc`. A short option's name says nothing of its value.
fn assigned(text: &[u8]) -> Vec<Range<usize>> {
    let mut values = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let length = text[at..].iter().take_while(|byte| is_of_name(**byte)).count();
        let value = start_of_value(text, at..at + length).map(|start| value_at(text, start));
        // What is named within a value is hidden with it.
        at = value.as_ref().map_or(at + length.max(1), |value| value.end);
        values.extend(value.filter(|value| !value.is_empty()));
    }
    values
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

/// Where the value of a name starts, if that is a secret one.
fn start_of_value(text: &[u8], name: Range<usize>) -> Option<usize> {
    let word = &text[name.clone()];
    if word.eq_ignore_ascii_case(b"bearer") {
        return next_word(text, name.end);
    }
    // Most words are followed by nothing of the kind, which costs least to see.
    let start = behind_sign(text, &name)?;
    let bare = str::from_utf8(word).ok()?.trim_start_matches('-');
    (!bare.is_empty() && is_secret_key(bare)).then_some(start)
}

/// Where a value starts if the name is given one.
fn behind_sign(text: &[u8], name: &Range<usize>) -> Option<usize> {
    let quotes = text[name.end..].iter().take_while(|byte| is_quote(**byte)).count();
    let sign = name.end + quotes;
    match text.get(sign)? {
        b'=' => Some(sign + 1),
        // A scheme's colon is no sign: what follows is a URL.
        b':' if !text[sign..].starts_with(b"://") => Some(next_word(text, sign + 1).unwrap_or(sign + 1)),
        byte if byte.is_ascii_whitespace() && quotes == 0 && text[name.start..].starts_with(b"--") => {
            next_word(text, sign).filter(|start| text.get(*start) != Some(&b'-'))
        }
        _ => None,
    }
}

/// Where the spaces end that start there.
fn next_word(text: &[u8], at: usize) -> Option<usize> {
    let spaces = text[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    (spaces > 0).then_some(at + spaces)
}

/// The value that starts there, without its quotes.
fn value_at(text: &[u8], start: usize) -> Range<usize> {
    let quotes = text[start..].iter().take_while(|byte| is_quote(**byte)).count();
    let start = start + quotes;
    let is_end = |byte: &u8| match quotes {
        0 => byte.is_ascii_whitespace() || matches!(byte, b'&' | b';' | b'"' | b'\''),
        _ => *byte == text[start - 1],
    };
    let length = text[start..].iter().position(is_end).unwrap_or(text.len() - start);
    start..start + length
}

/// A quote, or the sign that escapes one.
fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_urls_are_masked_wherever_they_stand() {
        assert_eq!(mask_within("a postgres://u:p@h/d b https://h/?q=a@b"), "a postgres://***@h/d b https://h/?q=a@b");
        assert_eq!(mask_within("redis://:p@ss@h"), "redis://***@h", "up to the last @");
        for unescaped in
            ["redis://me:p/w@h", "redis://me:p?w#@h", "redis://me:p\"w@h", "redis://me:p\\w@h", "redis://me:/w@h"]
        {
            assert_eq!(mask_within(unescaped), "redis://***@h", "{unescaped}");
        }
        for host in ["http://h:80/a@b", "http://[::1]:80/a@b", "http://h/a@b", "http://h:80 a@b"] {
            assert_eq!(mask_within(host), host);
        }
        assert!(!holds_secret("mail me@example.org, see http://example.org/"));
    }

    #[test]
    fn what_a_secret_name_is_given_is_masked() {
        for (text, masked) in [
            ("app --token=abc {fd}", "app --token=*** {fd}"),
            ("app --api-key abc {fd}", "app --api-key *** {fd}"),
            ("app --password 'a b' {fd}", "app --password '***' {fd}"),
            ("app --password=\"a b\" x", "app --password=\"***\" x"),
            ("DB_PASSWORD=abc SECRET_KEY_BASE='d e' app", "DB_PASSWORD=*** SECRET_KEY_BASE='***' app"),
            ("postgres://u:p@h/db?password=x&sslmode=off", "postgres://***@h/db?password=***&sslmode=off"),
            ("https://h/?access_token=abc#top", "https://h/?access_token=***"),
            ("Server=h;Password=abc;Port=1", "Server=h;Password=***;Port=1"),
            ("host=h password=abc port=1", "host=h password=*** port=1"),
            ("curl -d '{\"token\":\"abc\",\"n\":1}'", "curl -d '{\"token\":\"***\",\"n\":1}'"),
            ("curl -H 'Authorization: Bearer abc' u", "curl -H 'Authorization: Bearer ***' u"),
            ("curl -H \"X-Api-Key: abc\"", "curl -H \"X-Api-Key: ***\""),
            ("-Dspring.datasource.password=abc", "-Dspring.datasource.password=***"),
            ("--password=é x", "--password=*** x"),
            ("redis://u:password=a@h", "redis://***"),
        ] {
            assert_eq!(mask_within(text), masked, "{text}");
            assert!(holds_secret(text), "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_secret_is_shown() {
        for text in [
            "app --token-file /run/x --max-tokens=5 --secretary=me",
            "app --password --verbose",
            "app --token",
            "app --token= {fd}",
            "the token is read from a file",
            "monkey=1 keys=2 tokenizer=fast",
            "token://host/path",
            "=abc --=abc :abc",
        ] {
            assert_eq!(mask_within(text), text);
        }
    }
}
