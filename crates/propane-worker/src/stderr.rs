//! Standard error, written by a thread of its own: whoever reads it may be slow or stand still, and no request waits for
//! that. The thread starts with the first line.

use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// How much waits for a reader that is slow. Beyond it, lines are lost, and counted.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// `PIPE_BUF`: what is written to a pipe in one piece stays in one piece, whoever else writes to it.
const PIECE_BYTES: usize = 4096;

/// The thread's queue; none where no thread can be had.
static QUEUE: OnceLock<Option<Arc<Queue>>> = OnceLock::new();

#[derive(Default)]
struct Queue {
    lines: Mutex<Lines>,
    /// Something has come, or all of it has been written.
    changed: Condvar,
}

/// What is to be written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lines {
    waiting: Vec<u8>,
    lost: u64,
    is_writing: bool,
}

/// Writes whole lines, without waiting for their reader. Those that cannot be written are lost: nothing must fail for its
/// log.
pub(crate) fn write(lines: &[u8]) {
    match QUEUE.get_or_init(start) {
        Some(queue) => {
            if queue.lines().add(lines) {
                queue.changed.notify_all();
            }
        }
        None => put(lines),
    }
}

/// Waits until all of it is written, but no longer than this.
pub(crate) fn flush(patience: Duration) {
    let Some(Some(queue)) = QUEUE.get() else { return };
    // Whether all of it was in time makes no difference any more.
    drop(queue.changed.wait_timeout_while(queue.lines(), patience, |lines| !lines.is_done()));
}

/// Standard error for whoever writes whole lines at once.
pub(crate) struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        write(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start() -> Option<Arc<Queue>> {
    let queue = Arc::new(Queue::default());
    let thread = Arc::clone(&queue);
    thread::Builder::new().name("log".to_owned()).spawn(move || thread.write_for_ever()).ok().map(|_| queue)
}

impl Queue {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        // A line is either in it or not, whatever happened to the one who was adding it.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_for_ever(&self) -> ! {
        loop {
            let mut lines = self.lines();
            while lines.waiting.is_empty() {
                lines = self.changed.wait(lines).unwrap_or_else(PoisonError::into_inner);
            }
            let batch = lines.take();
            drop(lines);
            pieces(&batch).for_each(put);
            self.lines().is_writing = false;
            self.changed.notify_all();
        }
    }
}

impl Lines {
    /// Whether somebody has to be woken for it.
    fn add(&mut self, lines: &[u8]) -> bool {
        if self.waiting.len() + lines.len() > MAX_WAITING_BYTES {
            self.lost += 1;
            return false;
        }
        let was_empty = self.waiting.is_empty();
        self.waiting.extend_from_slice(lines);
        was_empty
    }

    fn take(&mut self) -> Vec<u8> {
        self.is_writing = true;
        let mut batch = mem::take(&mut self.waiting);
        let lost = mem::take(&mut self.lost);
        if lost > 0 {
            let pid = std::process::id();
            batch.extend(format!("event=log_lines_lost count={lost} pid={pid}\n").into_bytes());
        }
        batch
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && !self.is_writing
    }
}

/// As many whole lines at once as stay together; a line that is longer goes alone.
fn pieces(batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let fits = rest.get(..PIECE_BYTES).unwrap_or(rest);
        let end = match memchr::memrchr(b'\n', fits) {
            Some(at) => at + 1,
            None => memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1),
        };
        let (piece, others) = rest.split_at(end);
        rest = others;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Past the lock of `std::io::Stderr`, behind which a panic would wait.
fn put(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(io::stderr(), bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => wait_for_room(),
            Err(_) => return,
        }
    }
}

/// Somebody who shares it has made it non-blocking.
fn wait_for_room() {
    let stderr = io::stderr();
    let mut polled = [rustix::event::PollFd::new(&stderr, rustix::event::PollFlags::OUT)];
    // A failure shows again in the next write.
    let _ = rustix::event::poll(&mut polled, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_lines_and_nothing_is_left_out() {
        let long = "x".repeat(PIECE_BYTES);
        let batch = format!("a\n{long}\nb\n{}c", "line\n".repeat(2000));
        let all: Vec<&[u8]> = pieces(batch.as_bytes()).collect();
        assert_eq!(all.concat(), batch.as_bytes());
        assert_eq!((all[0], all[1].len()), (&b"a\n"[..], PIECE_BYTES + 1));
        for piece in &all[2..] {
            assert!(piece.len() <= PIECE_BYTES);
        }
        assert!(all[..all.len() - 1].iter().all(|piece| piece.ends_with(b"\n")));
        assert_eq!(pieces(b"").count(), 0);
    }

    #[test]
    fn what_nobody_reads_is_lost_at_some_time_and_counted() {
        let mut lines = Lines::default();
        assert!(lines.add(b"first\n") && !lines.add(b"second\n"), "woken once");
        let much = vec![b'x'; MAX_WAITING_BYTES - 10];
        assert!(!lines.add(&much) && lines.lost == 1);
        let batch = String::from_utf8(lines.take()).unwrap();
        assert!(batch.starts_with("first\nsecond\nevent=log_lines_lost count=1 pid="), "{batch}");
        assert!(!lines.is_done() && lines.lost == 0);
        assert!(lines.add(&much), "there is room again");
    }
}
