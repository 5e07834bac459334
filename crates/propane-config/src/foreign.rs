//! Binary property lists, read by the `plist` crate.
//!
//! The guards here come first, because the crate builds whatever a file describes: they bound depth, number of values
//! and expanded size.

use std::io::Cursor;

use crate::document::{Document, Fault, MAX_BYTES, MAX_DEPTH, MAX_VALUES, Node};

pub(crate) fn read_binary(bytes: &[u8]) -> Result<Document<'static>, Fault> {
    Table::of(bytes)
        .and_then(|table| table.check())
        .ok_or_else(|| Fault::nowhere("is not a sound binary property list"))??;
    match plist::Value::from_reader(Cursor::new(bytes)) {
        Ok(value) => Ok(Document { root: Node::from_plist(value), remarks: Vec::new() }),
        Err(error) => Err(Fault::nowhere(format!("is not a sound property list: {error}"))),
    }
}

/// The object table of a binary property list.
struct Table<'a> {
    bytes: &'a [u8],
    offset_size: usize,
    reference_size: usize,
    objects: usize,
    top: usize,
    offsets_at: usize,
}

/// One object: what it refers to, and how many bytes of its own it stands for.
struct Object {
    references: std::ops::Range<usize>,
    size: usize,
}

impl<'a> Table<'a> {
    /// Reads the trailer. `None` if it points outside the file.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let trailer = bytes.len().checked_sub(32).filter(|at| *at >= 8)?;
        let word = |at| number(bytes, trailer + at, 8);
        let table = Self {
            bytes,
            offset_size: usize::from(bytes[trailer + 6]),
            reference_size: usize::from(bytes[trailer + 7]),
            objects: word(8)?,
            top: word(16)?,
            offsets_at: word(24)?,
        };
        let sizes = 1..=8;
        (sizes.contains(&table.offset_size) && sizes.contains(&table.reference_size)).then_some(table)
    }

    /// Walks the tree that the table describes, shared objects as often as they are referred to, without building it.
    /// `None` if a reference leads nowhere.
    fn check(&self) -> Option<Result<(), Fault>> {
        let (mut values, mut size) = (0, 0);
        let mut open = vec![self.object(self.top)?.references];
        while let Some(references) = open.last_mut() {
            let Some(at) = next_reference(references, self.reference_size) else {
                open.pop();
                continue;
            };
            let object = self.object(number(self.bytes, at, self.reference_size)?)?;
            (values, size) = (values + 1, size + object.size);
            if values > MAX_VALUES || size > MAX_BYTES {
                return Some(Err(Fault::nowhere("describes more values than a configuration can need")));
            }
            open.push(object.references);
            if open.len() > MAX_DEPTH {
                return Some(Err(Fault::nowhere(format!("is nested deeper than {MAX_DEPTH}"))));
            }
        }
        Some(Ok(()))
    }

    fn object(&self, index: usize) -> Option<Object> {
        let entry = index.checked_mul(self.offset_size).filter(|_| index < self.objects)?;
        let at = number(self.bytes, self.offsets_at.checked_add(entry)?, self.offset_size)?;
        let marker = *self.bytes.get(at)?;
        let (count, content) = match marker & 0x0f {
            0x0f if marker >> 4 != 0 => self.long_count(at + 1)?,
            short => (usize::from(short), at + 1),
        };
        let (references, size) = match marker >> 4 {
            0x4 | 0x5 => (0, count),
            0x6 => (0, count.checked_mul(2)?),
            0xa..=0xc => (count, 0),
            0xd => (count.checked_mul(2)?, 0),
            _ => (0, 0),
        };
        let end = content.checked_add(references.checked_mul(self.reference_size)?)?.checked_add(size)?;
        let references = content..content + references * self.reference_size;
        (end <= self.bytes.len()).then_some(Object { references, size })
    }

    /// A count that did not fit into the marker: an integer object follows it.
    fn long_count(&self, at: usize) -> Option<(usize, usize)> {
        let marker = *self.bytes.get(at)?;
        let width = 1_usize.checked_shl(u32::from(marker & 0x0f)).filter(|width| marker >> 4 == 1 && *width <= 8)?;
        Some((number(self.bytes, at + 1, width)?, at + 1 + width))
    }
}

fn next_reference(references: &mut std::ops::Range<usize>, width: usize) -> Option<usize> {
    let at = references.start;
    references.start += width;
    (at < references.end).then_some(at)
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<usize> {
    let digits = bytes.get(at..at.checked_add(width)?)?;
    digits.iter().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))
}
