//! A file on its way to being a layer, and what is to be said of its text.

use crate::document::{self, Content, Entry, Node, Reading, RemarkKind, Span};
use crate::layer::{Findings, Layer, LayerKind};
use crate::problem::{Code, Place, Problem};
use crate::settings::{GROUPS, setting};
use crate::source::Source;
use crate::tree;
use crate::world::FileRead;

use super::FileState;

/// A file on its way to being a layer.
pub(super) struct FileLayer<'w> {
    pub(super) kind: LayerKind,
    pub(super) source: Source<'w>,
    read: &'w FileRead,
    reading: Option<Reading<'w>>,
}

impl<'w> FileLayer<'w> {
    pub(super) fn read(kind: LayerKind, path: &'w str, read: &'w FileRead) -> Self {
        let reading = matches!(read, FileRead::Read(_)).then(|| document::examine(read.bytes()));
        let is_sound = reading.as_ref().is_none_or(|reading| reading.faults.is_empty());
        Self { kind, source: Source::new(path, read.bytes(), is_sound), read, reading }
    }

    /// The file's values. One that is no property list has none, but what is wrong with what could be read of it is
    /// told all the same.
    pub(super) fn layer(&self, findings: &mut Findings) -> Layer {
        if let FileRead::Unreadable(error) = self.read {
            let message = format!("cannot read {}: {error}", self.source.path);
            findings.problems.push(Problem::error(Code::Unreadable, message).at(Place::in_file(&self.source, None)));
        }
        let Some(reading) = &self.reading else { return Layer::new(self.kind) };
        findings.problems.extend(reading.faults.iter().map(|fault| self.syntax_error(fault)));
        let Some(document) = &reading.document else { return Layer::new(self.kind) };
        let layer = Layer::file(self.kind, &self.source, document, findings);
        let remarks = document.remarks.iter().map(|remark| self.remark(remark));
        // A value that is rejected is not also remarked on.
        let place = |problem: &Problem| problem.place.as_ref().map(|place| place.origin.clone());
        let is_told = |problem: &Problem| findings.rejected.iter().any(|told| place(&told.problem) == place(problem));
        let remarks: Vec<_> = remarks.filter(|remark| !is_told(remark)).collect();
        findings.problems.extend(remarks);
        if reading.faults.is_empty() { layer } else { Layer::new(self.kind) }
    }

    fn syntax_error(&self, fault: &document::Fault) -> Problem {
        let message = match fault.span {
            Some(_) => fault.message.clone(),
            None => format!("{} {}", self.source.path, fault.message),
        };
        let place = Place::in_file(&self.source, fault.span).label(fault.label.clone());
        let mut problem = Problem::error(Code::Syntax, message).at(place);
        problem.related.extend(fault.found.map(|found| Place::in_file(&self.source, Some(found)).label("found this")));
        match &fault.help {
            Some(help) => problem.suggest(help.clone()),
            None => problem,
        }
    }

    fn remark(&self, remark: &document::Remark) -> Problem {
        let place = Place::in_file(&self.source, Some(remark.span));
        match &remark.kind {
            RemarkKind::Braceless => {
                let message = format!("{} has no braces around it, which Arlen's own reader needs", self.source.path);
                Problem::warning(Code::Braceless, message).at(place).suggest("write { before it and } after it")
            }
            RemarkKind::DuplicateKey { key, again } => {
                let counts = Place::in_file(&self.source, Some(*again)).label("this one counts");
                let key = self.source.named(key, Some(remark.span));
                let message = format!("{key} is set twice in one dictionary");
                let mut problem =
                    Problem::warning(Code::DuplicateKey, message).at(place.label("no effect")).related(counts);
                problem.key = self.key_at(*again);
                problem
            }
            RemarkKind::EmptyValue => Problem::warning(Code::EmptyValue, "a value without any text is taken as empty")
                .at(place)
                .suggest("write \"\" if that is meant"),
            RemarkKind::CutEscape => {
                let message = "an escape that the closing quote cuts short is dropped, as Arlen's own reader does";
                Problem::warning(Code::CutEscape, message).at(place).suggest("write all digits: \\U0041 or \\101")
            }
            RemarkKind::OpenComment => {
                Problem::warning(Code::OpenComment, "this comment is never closed").at(place).suggest("end it with */")
            }
            RemarkKind::AndMore(count) => {
                let message = format!("{count} more values in {} are probably not meant as they are", self.source.path);
                let problem = Problem::warning(Code::AndMore, message).standing_for(*count);
                problem.at_origin(self.source.origin(Some(remark.span)))
            }
        }
    }

    /// The setting, or the group of settings, whose key stands there.
    fn key_at(&self, span: Span) -> Option<String> {
        let root = &self.reading.as_ref()?.document.as_ref()?.root;
        let at = |node: &Node<'_>| match &node.content {
            Content::Dict(entries) => {
                entries.iter().find(|entry| entry.key_span == Some(span)).map(|entry| entry.key.to_string())
            }
            _ => None,
        };
        let Content::Dict(entries) = &root.content else { return None };
        let groups = entries.iter().filter(|entry| GROUPS.contains(&&*entry.key));
        let in_group = |group: &Entry<'_>| Some(format!("{}.{}", group.key, at(&group.value)?));
        at(root)
            .or_else(|| groups.into_iter().find_map(in_group))
            .filter(|key| GROUPS.contains(&key.as_str()) || setting(key).is_some())
    }

    pub(super) fn tree(&self) -> Option<tree::File<'_>> {
        let reading = self.reading.as_ref().filter(|reading| reading.faults.is_empty())?;
        match &reading.document.as_ref()?.root.content {
            Content::Dict(entries) => Some((entries, &self.source)),
            _ => None,
        }
    }

    pub(super) fn state(&self) -> FileState {
        match self.read {
            FileRead::Missing => FileState::Missing,
            FileRead::Unreadable(_) => FileState::Unreadable,
            FileRead::Read(_) if self.tree().is_some() => FileState::Read,
            FileRead::Read(_) => FileState::Invalid,
        }
    }
}
