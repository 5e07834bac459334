//! Diagnostics: what `tracing` is told goes to standard error as `propane: …` lines, and never makes the manager wait.

use std::fmt;
use std::io;
use std::sync::Mutex;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::output::Sink;

/// Sends all diagnostics of this process to standard error. A second call changes nothing.
pub fn install() {
    let writer = Mutex::new(Stderr(Sink::standard(io::stderr())));
    // Refused only where there is a subscriber already.
    let _ = tracing_subscriber::fmt().event_format(Plain).with_max_level(Level::INFO).with_writer(writer).try_init();
}

struct Stderr(Sink);

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Where standard error itself fails there is nowhere left to say so.
        let _ = self.0.write(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `propane: message`, as the contract has its errors; only warnings say what they are.
struct Plain;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Plain {
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::WARN => "warning: ",
            _ => "",
        };
        write!(writer, "propane: {level}")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
