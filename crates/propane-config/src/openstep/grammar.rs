//! Dictionaries, arrays and what they hold.

use crate::document::{Content, Entry, MAX_DEPTH, MAX_VALUES, Node, RemarkKind, Span};

use super::recovery::hint;
use super::{Key, Read, Reader};

impl<'a> Reader<'a> {
    pub(super) fn document(&mut self) -> Read<Node<'a>> {
        self.skip_space();
        if self.peek().is_none() {
            return Err(self.fault(self.here(), "the file holds no value", "", Some("an empty configuration is {}")));
        }
        let first = self.value()?;
        self.skip_space();
        match (self.peek(), first) {
            (None, first) => Ok(first),
            (Some(b'='), Node { content: Content::Text(key), span: Some(span) }) => self.braceless((key, span)),
            (Some(found), first) => {
                let fault = self.after_end(found, &first);
                let is_whole = matches!(first.content, Content::Dict(_));
                if is_whole { self.note(fault).map(|()| first) } else { Err(fault) }
            }
        }
    }

    fn braceless(&mut self, key: Key<'a>) -> Read<Node<'a>> {
        self.found.remark(key.1, RemarkKind::Braceless);
        let start = key.1.start as usize;
        let entries = self.entries(None, Some(key))?;
        Ok(Node { content: Content::Dict(entries), span: Some(self.since(start)) })
    }

    fn value(&mut self) -> Read<Node<'a>> {
        self.skip_space();
        self.values += 1;
        if self.values > MAX_VALUES {
            self.found.is_over = true;
            return Err(self.fault(self.here(), &format!("more than {MAX_VALUES} values"), "", None));
        }
        let start = self.at;
        let content = match self.peek() {
            Some(b'"') => Content::Text(self.quoted()?),
            Some(b'{') => self.nested(Self::dict)?,
            Some(b'(') => self.nested(Self::array)?,
            Some(b'<') => Content::Typed(Box::new(self.typed()?)),
            None => return Err(self.fault(self.here(), "expected a value, but the file ends", "", None)),
            Some(_) => Content::Text(self.bare()?),
        };
        if self.at == start {
            self.found.remark(self.character(), RemarkKind::EmptyValue);
        }
        Ok(Node { content, span: Some(self.since(start)) })
    }

    fn nested(&mut self, read: fn(&mut Self) -> Read<Content<'a>>) -> Read<Content<'a>> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.found.is_over = true;
            return Err(self.fault(self.character(), &format!("nested deeper than {MAX_DEPTH}"), "", None));
        }
        let content = read(self)?;
        self.depth -= 1;
        Ok(content)
    }

    fn dict(&mut self) -> Read<Content<'a>> {
        let open = self.character();
        self.at += 1;
        self.entries(Some(open), None).map(Content::Dict)
    }

    /// Entries up to the brace that closes `open`, or without one up to the end of the file.
    fn entries(&mut self, open: Option<Span>, mut first: Option<Key<'a>>) -> Read<Vec<Entry<'a>>> {
        let (mut entries, depth) = (Vec::new(), self.depth);
        loop {
            if first.is_none() && self.closes(open)? {
                break;
            }
            let entry = match self.entry(first.take()) {
                Ok(entry) => entry,
                Err(fault) => {
                    self.give_up_entry(fault)?;
                    self.depth = depth;
                    continue;
                }
            };
            let value = entry.value.span.map_or(self.at, |span| span.start as usize);
            let end = self.at;
            let is_last = self.closes(open)?;
            match self.peek() {
                _ if is_last => {}
                Some(b';') => self.at += 1,
                found => {
                    if !self.goes_on_without_semicolon(value, end, found)? {
                        continue;
                    }
                }
            }
            entries.push(entry);
            if is_last {
                break;
            }
        }
        self.drop_duplicates(&mut entries);
        Ok(entries)
    }

    fn entry(&mut self, key: Option<Key<'a>>) -> Read<Entry<'a>> {
        let (key, key_span) = match key {
            Some(key) => key,
            None => self.key()?,
        };
        self.expect_equals(&key)?;
        let value = self.value()?;
        Ok(Entry { key, key_span: Some(key_span), value })
    }

    /// Whether the dictionary ends here. A missing `}` is blamed on the innermost `{` that nothing closes.
    fn closes(&mut self, open: Option<Span>) -> Read<bool> {
        self.skip_space();
        match (self.peek(), open) {
            (None, None) => Ok(true),
            (None, Some(open)) => {
                if !self.found.is_cut {
                    self.found.is_cut = true;
                    self.note(self.fault(open, "this '{' is never closed", "", None))?;
                }
                Ok(true)
            }
            (Some(b'}'), Some(_)) => {
                self.at += 1;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn expect_equals(&mut self, key: &str) -> Read<()> {
        self.skip_space();
        match self.peek() {
            Some(b'=') => {
                self.at += 1;
                Ok(())
            }
            None => Err(self.fault(self.here(), "expected '=', but the file ends", "", None)),
            Some(b'}' | b')' | b';') if key.is_empty() => Err(self.unexpected(self.character(), "a key")),
            Some(found) => {
                let help = if key.ends_with(':') { hint(b':') } else { hint(found) };
                Err(self.fault(self.character(), "expected '=' after this key", "", help))
            }
        }
    }

    /// The last of several equal keys wins, as it does in GNUstep.
    fn drop_duplicates(&mut self, entries: &mut Vec<Entry<'a>>) {
        let mut order: Vec<usize> = (0..entries.len()).collect();
        order.sort_by(|a, b| entries[*a].key.cmp(&entries[*b].key));
        let mut losers: Vec<(usize, usize)> = order
            .windows(2)
            .map(|pair| (pair[0], pair[1]))
            .filter(|(a, b)| entries[*a].key == entries[*b].key)
            .collect();
        if losers.is_empty() {
            return;
        }
        losers.sort_unstable();
        for (loser, again) in &losers {
            let (Some(span), Some(again)) = (entries[*loser].key_span, entries[*again].key_span) else { continue };
            self.found.remark(span, RemarkKind::DuplicateKey { key: entries[*loser].key.clone().into_owned(), again });
        }
        let mut index = 0..;
        entries.retain(|_| {
            let index = index.next().unwrap_or_default();
            losers.binary_search_by_key(&index, |(loser, _)| *loser).is_err()
        });
    }

    fn array(&mut self) -> Read<Content<'a>> {
        let open = self.character();
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                Some(b')') => break,
                None => return Err(self.fault(open, "this '(' is never closed", "", None)),
                Some(_) => items.push(self.value()?),
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b')') => break,
                None => return Err(self.fault(open, "this '(' is never closed", "", None)),
                Some(found) => return Err(self.fault(self.character(), "expected ',' or ')'", "", hint(found))),
            }
        }
        self.at += 1;
        Ok(Content::Array(items))
    }

    fn key(&mut self) -> Read<Key<'a>> {
        let start = self.at;
        let key = match self.peek() {
            Some(b'"') => self.quoted()?,
            Some(b'<' | b'{' | b'(') => {
                return Err(self.fault(self.character(), "expected a key", "", Some("a key is a word or quoted text")));
            }
            _ => self.bare()?,
        };
        Ok((key, self.since(start)))
    }
}
