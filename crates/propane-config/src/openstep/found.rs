//! What there is to say about a text.

use crate::document::{Fault, Remark, RemarkKind, Span};

/// Remarks that are reported one by one; a file that earns more has one thing wrong with it many times.
const MAX_REMARKS: usize = 20;

/// What there is to say about a text.
#[derive(Default)]
pub(super) struct Found {
    pub(super) remarks: Vec<Remark>,
    more_remarks: usize,
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
    /// Says what can only be said at the end.
    pub(super) fn finish(mut self, end: Span) -> Self {
        let is_blamed = |comment| self.faults.iter().any(|fault| fault.span == Some(comment));
        if let Some(comment) = self.open_comment.filter(|comment| !is_blamed(*comment)) {
            self.remark(comment, RemarkKind::OpenComment);
        }
        // A character that cannot start a value leaves an empty one, and is told already.
        let is_told = |remark: &Remark| self.faults.iter().any(|fault| fault.span == Some(remark.span));
        self.remarks.retain(|remark| remark.kind != RemarkKind::EmptyValue || !is_told(remark));
        if self.more_remarks > 0 {
            self.remarks.push(Remark { span: end, kind: RemarkKind::AndMore(self.more_remarks) });
        }
        self
    }

    pub(super) fn remark(&mut self, span: Span, kind: RemarkKind) {
        if self.remarks.len() < MAX_REMARKS {
            self.remarks.push(Remark { span, kind });
        } else {
            self.more_remarks += 1;
        }
    }
}
