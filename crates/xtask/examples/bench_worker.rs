//! The worker that `cargo xtask bench` runs under every supervisor: as little as a worker can be.
//!
//! - `serve HOST PORT` binds with `SO_REUSEPORT` and answers each request with its pid, one after the other. On TERM it
//!   finishes the request that it is at, closes its socket and ends.
//! - `serve-stdin` does the same on a socket that it inherits as its standard input.
//! - `wait FIFO` says that it runs, with a byte into the FIFO and `READY=1` where there is a `NOTIFY_SOCKET`, and waits.
//! - `crash FIFO` says so too, and fails.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

/// As propane's default.
const BACKLOG: i32 = 128;
/// A client that says nothing does not hold up the others for longer.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", host, port] => serve(&listen(SocketAddr::new(host.parse()?, port.parse()?))?)?,
        ["serve-stdin"] => serve(&TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?))?,
        ["wait", fifo] => wait(fifo)?,
        ["crash", fifo] => {
            announce(fifo)?;
            return Ok(ExitCode::FAILURE);
        }
        _ => return Err("usage: bench_worker serve HOST PORT | serve-stdin | wait FIFO | crash FIFO".into()),
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

fn serve(listener: &TcpListener) -> Result<(), Box<dyn Error>> {
    // A byte in a pipe is not overlooked, whenever the signal comes.
    let (stop, signalled) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, signalled)?;
    // Siblings may have taken the connection that a shared socket has told of.
    listener.set_nonblocking(true)?;
    let body = format!("{}\n", std::process::id());
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    loop {
        let mut ready = [listener.as_fd(), stop.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) if ready[1].any() == Some(true) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        match listener.accept() {
            // A client that has gone away is no trouble of the worker's.
            Ok((client, _)) => drop(reply(client, &answer)),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::WouldBlock) => {}
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
