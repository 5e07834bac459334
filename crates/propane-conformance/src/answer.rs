//! One answer, taken apart with no mercy: a line that is not as it should be is an error.

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its coding.
    pub body: Vec<u8>,
}

impl Answer {
    /// Takes an answer from the front of `bytes`, and gives its length; none if it has not all arrived.
    ///
    /// # Errors
    /// What is no answer.
    pub fn parse(bytes: &[u8], is_head: bool) -> Result<Option<(Self, usize)>, String> {
        let Some(head_end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let head = std::str::from_utf8(&bytes[..head_end]).map_err(|error| format!("the head is not text: {error}"))?;
        let mut lines = head.split("\r\n");
        let status = status(lines.next().unwrap_or_default())?;
        let headers = lines.map(header).collect::<Result<Vec<_>, _>>()?;
        let mut answer = Self { status, headers, body: Vec::new() };
        let body = &bytes[head_end + 4..];
        let Some((content, length)) = answer.content(body, is_head)? else { return Ok(None) };
        answer.body = content;
        Ok(Some((answer, head_end + 4 + length)))
    }

    /// The value of a header that must not stand twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn content(&self, bytes: &[u8], is_head: bool) -> Result<Option<(Vec<u8>, usize)>, String> {
        if is_head || self.status / 100 == 1 || self.status == 204 || self.status == 304 {
            return Ok(Some((Vec::new(), 0)));
        }
        if self.header("transfer-encoding") == Some("chunked") {
            return chunked(bytes);
        }
        let length = self.header("content-length").ok_or("the answer does not say how long it is")?;
        let length: usize = length.parse().map_err(|error| format!("Content-Length {length:?}: {error}"))?;
        Ok(bytes.get(..length).map(|content| (content.to_vec(), length)))
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn status(line: &str) -> Result<u16, String> {
    let number = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
    let number = number.and_then(|rest| rest.get(..3)).and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("{line:?} is not a status line"))
}

fn header(line: &str) -> Result<(String, String), String> {
    match line.split_once(": ") {
        Some((name, value)) if !name.is_empty() => Ok((name.to_ascii_lowercase(), value.to_owned())),
        _ => Err(format!("{line:?} is not a header line")),
    }
}

fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| format!("{:?} is not a chunk size", &bytes[at..at + end]))?;
        at += end + 2;
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        content.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((content, at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_one_after_the_other() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        let (first, length) = Answer::parse(bytes, false).unwrap().unwrap();
        assert_eq!((first.status, first.body.as_slice()), (200, &b"ok\n"[..]));
        let (second, rest) = Answer::parse(&bytes[length..], false).unwrap().unwrap();
        assert_eq!((second.body.as_slice(), length + rest), (&b"ab"[..], bytes.len()));
        assert_eq!(Answer::parse(&bytes[..length - 1], false), Ok(None));
        assert!(Answer::parse(b"nonsense\r\n\r\n", false).is_err());
        assert!(Answer::parse(b"HTTP/1.1 200 OK\r\n\r\n", false).is_err(), "no length");
    }
}
