//! The chunked coding (RFC 9112 §7.1), as strictly as it is written there.

/// Bytes of chunk extensions in one body. Nobody uses them, but they are a way to send much and say nothing.
const MAX_EXTENSION_BYTES: u32 = 4096;

/// Bytes of trailer fields in one body.
const MAX_TRAILER_BYTES: u32 = 8192;

/// Trailer fields of one body. The parser's own number.
const MAX_TRAILER_FIELDS: u32 = 100;

/// How many hexadecimal digits a chunk size may have; also leading zeros count.
const MAX_SIZE_DIGITS: u8 = 16;

/// Whether the body has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    No,
    WithBody,
    WithFault,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    at: At,
    extension_bytes: u32,
    trailer_bytes: u32,
    trailer_fields: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size { value: u64, digits: u8 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    End,
    Fault,
}

impl Default for At {
    fn default() -> Self {
        Self::Size { value: 0, digits: 0 }
    }
}

impl Chunked {
    /// Passes what belongs to the body. A byte that is wrong does not pass, nor does anything behind it.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> (usize, Ended) {
        let mut passed = 0;
        while passed < bytes.len() {
            if let At::Data { left } = self.at {
                let step = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - passed);
                passed += step;
                let left = left - step as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data { left } };
                continue;
            }
            self.at = self.step(bytes[passed]);
            match self.at {
                At::Fault => return (passed, Ended::WithFault),
                At::End => return (passed + 1, Ended::WithBody),
                _ => passed += 1,
            }
        }
        (passed, Ended::No)
    }

    fn step(&mut self, byte: u8) -> At {
        match (self.at, byte) {
            (At::Size { value, digits }, _) => size(value, digits, byte),
            (At::Extension { size }, b'\r') => At::SizeLf { size },
            (At::Extension { .. }, _) if is_text(byte) => {
                self.extension_bytes += 1;
                if self.extension_bytes > MAX_EXTENSION_BYTES { At::Fault } else { self.at }
            }
            (At::SizeLf { size: 0 }, b'\n') => At::TrailerStart,
            (At::SizeLf { size }, b'\n') => At::Data { left: size },
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::default(),
            (At::EndLf, b'\n') => At::End,
            (At::TrailerStart | At::TrailerName | At::TrailerValue | At::TrailerLf, _) => self.trailer(byte),
            _ => At::Fault,
        }
    }

    fn trailer(&mut self, byte: u8) -> At {
        self.trailer_bytes += 1;
        self.trailer_fields += u32::from(self.at == At::TrailerStart && byte != b'\r');
        if self.trailer_bytes > MAX_TRAILER_BYTES || self.trailer_fields > MAX_TRAILER_FIELDS {
            return At::Fault;
        }
        match (self.at, byte) {
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::TrailerStart | At::TrailerName, _) if is_token(byte) => At::TrailerName,
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, _) if is_text(byte) => At::TrailerValue,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            _ => At::Fault,
        }
    }
}

fn size(value: u64, digits: u8, byte: u8) -> At {
    let digit = char::from(byte).to_digit(16);
    match (digit, byte) {
        (Some(digit), _) if digits < MAX_SIZE_DIGITS => {
            At::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
        }
        (None, b'\r') if digits > 0 => At::SizeLf { size: value },
        (None, b';') if digits > 0 => At::Extension { size: value },
        _ => At::Fault,
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
