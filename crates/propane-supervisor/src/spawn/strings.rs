//! Strings as C and the kernel want them.

use std::ffi::CString;

use nix::libc;

/// Strings as `execve(2)` wants them, in one piece: a worker has a hundred variables.
#[derive(Debug, Default)]
pub(crate) struct CStrings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl CStrings {
    /// Adds a string made of `parts`; a NUL inside ends it, as it would for any other program.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) {
        self.starts.push(self.bytes.len());
        let start = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        // `contains` is quick, and a NUL is rare.
        if self.bytes[start..].contains(&0) {
            let end = self.bytes[start..].iter().position(|byte| *byte == 0).unwrap_or_default();
            self.bytes.truncate(start + end);
        }
        self.bytes.push(0);
    }

    /// A pointer to each. They hold until a string is added.
    pub(super) fn pointers(&self) -> Vec<*const libc::c_char> {
        self.starts.iter().map(|start| self.bytes[*start..].as_ptr().cast()).collect()
    }
}

/// `text` as C wants it; a NUL inside ends it, as it would for any other program.
pub(crate) fn c_string(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    // Cannot fail, because the first NUL and all behind it are cut off.
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_stand_one_behind_the_other_and_end_at_a_nul() {
        let mut strings = CStrings::default();
        let table: [(&[&[u8]], &[u8]); 5] = [
            (&[b"PATH", b"=", b"/bin"], b"PATH=/bin"),
            (&[b"EMPTY", b"=", b""], b"EMPTY="),
            (&[b"CUT", b"=", b"here\0not there", b"nor there"], b"CUT=here"),
            (&[], b""),
            (&["LÄNGE=ß".as_bytes()], "LÄNGE=ß".as_bytes()),
        ];
        for (parts, _) in table {
            strings.push(parts);
        }
        let found = strings.starts.iter().map(|start| std::ffi::CStr::from_bytes_until_nul(&strings.bytes[*start..]));
        let expected = table.map(|(_, text)| text);
        assert!(found.map(|text| text.unwrap().to_bytes()).eq(expected), "{strings:?}");
    }
}
