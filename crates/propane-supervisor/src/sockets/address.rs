//! Where the manager listens: an IP address and a port, or a file.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use propane_config::unix_path;
use socket2::{Domain, SockAddr, Socket, Type};

use super::SocketError;

/// `sun_path` of `unix(7)` without the NUL that ends it.
const PATH_BYTES_MAX: usize = 107;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    /// A file; of a socket that was handed over also an abstract name, which begins with a NUL.
    Unix(PathBuf),
}

/// As `host` writes it, with the port where there is one.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(_) => f.write_str(&self.host()),
        }
    }
}

impl Address {
    /// What `host` and `port` stand for. A relative path is one of the app root.
    pub(crate) fn resolve(host: &str, port: u16, app_root: &Path) -> Result<Self, SocketError> {
        match unix_path(host) {
            Some(path) => file(&app_root.join(path)).map(Self::Unix),
            None => resolve(host, port).map(Self::Tcp),
        }
    }

    /// The address of a socket, if it is of a kind that is served here.
    pub(crate) fn of(socket: &Socket) -> io::Result<Option<Self>> {
        let local = socket.local_addr()?;
        if local.domain() != Domain::UNIX {
            return Ok(local.as_socket().map(Self::Tcp));
        }
        let abstract_name = || local.as_abstract_namespace().map(|name| [b"\0", name].concat());
        let path = local.as_pathname().map(Path::to_owned);
        let named = path.or_else(|| abstract_name().map(|bytes| std::ffi::OsString::from_vec(bytes).into()));
        Ok(Some(Self::Unix(named.unwrap_or_default())))
    }

    /// Its host as the setting has it.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.ip().to_string(),
            Self::Unix(path) => format!("unix:{}", path.to_string_lossy().replacen('\0', "@", 1)),
        }
    }

    /// Its port; 0, which no TCP socket listens on, for a file.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Tcp(address) => address.port(),
            Self::Unix(_) => 0,
        }
    }

    /// The IP address and port, of one that has them.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// A socket that does not wait, and the address at which it finds who listens here.
    pub(crate) fn client(&self) -> io::Result<(Socket, SockAddr)> {
        let server = match self {
            Self::Tcp(address) => reachable(*address).into(),
            Self::Unix(path) => SockAddr::unix(path)?,
        };
        let socket = Socket::new(server.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        Ok((socket, server))
    }
}

/// The address at which a listener can be reached: 0.0.0.0 is one only by custom.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn file(path: &Path) -> Result<PathBuf, SocketError> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes > PATH_BYTES_MAX {
        return Err(SocketError::TooLong { path: path.to_owned(), bytes, most: PATH_BYTES_MAX });
    }
    Ok(path.to_owned())
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, SocketError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "no address found");
    let error = |error| SocketError::Resolve { host: host.to_owned(), error };
    let mut found: Vec<SocketAddr> = (bare, port).to_socket_addrs().map_err(error)?.collect();
    found.dedup();
    let first = found.first().copied().ok_or_else(nowhere).map_err(error)?;
    if found.len() > 1 {
        let others: Vec<_> = found.iter().skip(1).map(|address| address.ip().to_string()).collect();
        tracing::info!(
            "host {host:?} has several addresses; {} is used, and not {} (write the one that is meant)",
            first.ip(),
            others.join(", ")
        );
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_resolve_as_the_table_says() {
        let table = [
            ("127.0.0.1", Some("127.0.0.1:80")),
            ("0.0.0.0", Some("0.0.0.0:80")),
            ("::1", Some("[::1]:80")),
            ("[::]", Some("[::]:80")),
            ("unix:/tmp/x", Some("unix:/tmp/x")),
            ("unix:tmp/x", Some("unix:/app/tmp/x")),
            ("unix:///tmp/x", Some("unix:///tmp/x")),
            ("not a host", None),
        ];
        for (host, expected) in table {
            let address = Address::resolve(host, 80, Path::new("/app")).ok();
            assert_eq!(address.map(|address| address.to_string()).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn a_path_has_room_for_107_bytes() {
        for (bytes, fits) in [(107, true), (108, false)] {
            let host = format!("unix:/{}", "a".repeat(bytes - 1));
            let error = Address::resolve(&host, 80, Path::new("/")).err().map(|error| error.to_string());
            assert_eq!(error.is_none(), fits, "{bytes}: {error:?}");
            assert!(error.is_none_or(|error| error.contains("108 bytes") && error.contains("107")));
        }
    }
}
