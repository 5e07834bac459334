//! What there is to say about a text.

use crate::document::{Fault, Remark, RemarkKind, Remarks, Span};

/// What there is to say about a text.
#[derive(Default)]
pub(super) struct Found {
    remarks: Remarks,
    pub(super) faults: Vec<Fault>,
    /// No further mistake is looked for.
    pub(super) is_over: bool,
    /// That the file ends too early was said.
    pub(super) is_cut: bool,
    pub(super) open_comment: Option<Span>,
    /// Where to go on after a quoted text that is never closed: the end of its first line.
    pub(super) resume_at: Option<usize>,
}

impl Found {
    /// The remarks, with what can only be said at the end, and the mistakes.
    pub(super) fn finish(mut self, end: Span) -> (Vec<Remark>, Vec<Fault>) {
        let is_blamed = |comment| self.faults.iter().any(|fault| fault.span == Some(comment));
        if let Some(comment) = self.open_comment.filter(|comment| !is_blamed(*comment)) {
            self.remark(comment, RemarkKind::OpenComment);
        }
        // A character that cannot start a value leaves an empty one, and is told already.
        let is_told = |remark: &Remark| self.faults.iter().any(|fault| fault.span == Some(remark.span));
        self.remarks.retain(|remark| remark.kind != RemarkKind::EmptyValue || !is_told(remark));
        (self.remarks.finish(end), self.faults)
    }

    pub(super) fn remark(&mut self, span: Span, kind: RemarkKind) {
        self.remarks.add(span, kind);
    }
}
