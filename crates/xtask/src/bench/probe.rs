//! Which worker answers: every app of the benchmark says its pid, in the body or in `X-Arlen-Worker-Pid`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::manager::Outcome;

use super::system::Interrupt;

/// Connections at once, so that a worker that is at one of them leaves the others to its siblings.
const BURST: usize = 16;
/// How long one burst may take: a connection in the queue of a dead worker is never answered.
const BURST_LIMIT: Duration = Duration::from_millis(300);
/// How long one connection may wait for a first answer: slow interpreters need a second, and a peer may fail meanwhile.
const FIRST_LIMIT: Duration = Duration::from_secs(10);
/// A port on which nobody listens yet is tried again after this.
const RETRY_INTERVAL: Duration = Duration::from_micros(200);
const PAUSE: Duration = Duration::from_micros(100);

/// Waits for any answer, as long as there may be one; a connection may wait in a queue for it.
pub(super) fn first_answer(
    port: u16,
    limit: Duration,
    interrupt: &Interrupt,
    mut is_hopeful: impl FnMut() -> Outcome<()>,
) -> Outcome<i32> {
    interrupt.wait_for("an answer", limit, RETRY_INTERVAL, || match is_hopeful() {
        Ok(()) => ask(port, FIRST_LIMIT).and_then(|mut client| read_pid(&mut client)).map(Ok),
        Err(error) => Some(Err(error)),
    })?
}

/// Waits until the pids that answer satisfy, and returns them.
pub(super) fn answering(
    port: u16,
    limit: Duration,
    interrupt: &Interrupt,
    is_enough: impl Fn(&BTreeSet<i32>) -> bool,
) -> Outcome<BTreeSet<i32>> {
    let mut seen = BTreeSet::new();
    interrupt.wait_for("enough workers that answer", limit, PAUSE, || {
        seen.append(&mut burst(port));
        is_enough(&seen).then(|| std::mem::take(&mut seen))
    })
}

/// The pids that answer a handful of requests made at once.
fn burst(port: u16) -> BTreeSet<i32> {
    let began = Instant::now();
    let clients: Vec<_> = (0..BURST).map_while(|_| ask(port, BURST_LIMIT)).collect();
    let rest = || BURST_LIMIT.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
    let answer = |mut client: TcpStream| {
        client.set_read_timeout(Some(rest())).ok()?;
        read_pid(&mut client)
    };
    clients.into_iter().filter_map(answer).collect()
}

fn ask(port: u16, patience: Duration) -> Option<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut client = TcpStream::connect_timeout(&address, patience).ok()?;
    client.set_read_timeout(Some(patience)).ok()?;
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    Some(client)
}

fn read_pid(client: &mut TcpStream) -> Option<i32> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    // Until the end, or until the body's line has come: some servers leave the connection open.
    loop {
        match client.read(&mut buffer) {
            Ok(0) | Err(_) => return pid_of(&String::from_utf8_lossy(&bytes)),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
        let text = String::from_utf8_lossy(&bytes);
        if text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.contains('\n')) {
            return pid_of(&text);
        }
    }
}

fn pid_of(answer: &str) -> Option<i32> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.split(' ').nth(1)?.starts_with('2') {
        return None;
    }
    let header = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-arlen-worker-pid").then(|| value.trim())
    });
    // A body may be in chunks: the pid is then on the second line.
    let mut lines = header.into_iter().chain(body.lines());
    let first = lines.next()?.trim();
    let is_chunked = header.is_none() && head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    if is_chunked { lines.next()?.trim().parse().ok() } else { first.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_stands_in_the_header_or_in_the_body() {
        let rows = [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n12\n", Some(12)),
            ("HTTP/1.1 200 OK\r\nX-Arlen-Worker-Pid: 34\r\n\r\nok\n", Some(34)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n56\n\r\n0\r\n\r\n", Some(56)),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n12\n", None),
            ("HTTP/1.1 200 OK\r\n\r\nhello\n", None),
            ("", None),
        ];
        for (answer, pid) in rows {
            assert_eq!(pid_of(answer), pid, "{answer:?}");
        }
    }
}
