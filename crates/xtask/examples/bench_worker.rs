//! The worker that `cargo xtask bench` runs under every supervisor: as little as a worker can be.
//!
//! - `serve HOST PORT` binds with `SO_REUSEPORT` and answers each request with its pid, one after the other. TERM ends it
//!   at once, as it ends most small servers.
//! - `wait FIFO` says that it runs, with a byte into the FIFO and `READY=1` where there is a `NOTIFY_SOCKET`, and waits.
//! - `crash FIFO` says so too, and fails.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Duration;

use nix::fcntl::OFlag;
use socket2::{Domain, Socket, Type};

/// As propane's default.
const BACKLOG: i32 = 128;
/// A client that says nothing does not hold up the others for longer.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", host, port] => serve(SocketAddr::new(host.parse()?, port.parse()?))?,
        ["wait", fifo] => wait(fifo)?,
        ["crash", fifo] => {
            announce(fifo)?;
            return Ok(ExitCode::FAILURE);
        }
        _ => return Err("usage: bench_worker serve HOST PORT | wait FIFO | crash FIFO".into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Without waiting: nobody reads the FIFO once the benchmark has gone.
fn announce(fifo: &str) -> Result<(), Box<dyn Error>> {
    let mut fifo = OpenOptions::new().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo)?;
    Ok(fifo.write_all(b".")?)
}

fn wait(fifo: &str) -> Result<(), Box<dyn Error>> {
    announce(fifo)?;
    if let Some(manager) = std::env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?.send_to(b"READY=1", manager)?;
    }
    nix::unistd::pause();
    Ok(())
}

fn serve(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let listener = listen(address)?;
    let body = format!("{}\n", std::process::id());
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    loop {
        match listener.accept() {
            // A client that has gone away is no trouble of the worker's.
            Ok((client, _)) => drop(reply(client, &answer)),
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, Box<dyn Error>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn reply(mut client: TcpStream, answer: &str) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut bytes = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match client.read(&mut bytes)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&bytes[..read]),
        }
    }
    client.write_all(answer.as_bytes())
}
