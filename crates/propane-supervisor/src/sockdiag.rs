//! Which TCP sockets there are on a port, and what a UNIX socket is connected to, asked of the kernel (`sock_diag(7)`)
//! rather than read from `/proc/net/tcp`, which took 44 ms on a machine with 14,000 sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer};
use netlink_packet_sock_diag::unix::nlas::{Nla as UnixNla, UnixDiagName};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags as UnixStates, UnixRequest, UnixResponse};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use crate::steering::NOWHERE;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// A listening socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Where it listens.
    pub(crate) local: SocketAddr,
    /// Which sockets can be of one group with it.
    pub(crate) kind: GroupKey,
    pub(crate) inode: u64,
    /// Connections that nobody has accepted yet.
    pub(crate) queued: u32,
}

/// What the listeners of a `SO_REUSEPORT` group have in common: the address as it was bound, its family, the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    family: u8,
    address: SocketAddr,
    interface: u32,
}

impl GroupKey {
    /// Whether connections come in over whichever interface.
    pub(crate) fn is_of_all_interfaces(self) -> bool {
        self.interface == 0
    }
}

/// The server's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// 0 while nobody has accepted it.
    pub(crate) inode: u64,
    /// Whether something has come that was not read, or was sent and not taken.
    pub(crate) has_pending: bool,
    /// How long ago data were sent and received last, if the kernel says.
    pub(crate) idle: Option<Idle>,
}

/// How long ago data went over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Idle {
    pub(crate) sent: Duration,
    pub(crate) received: Duration,
}

/// The listening sockets on `port`, of both address families, in the order of their `listen` calls in each group.
pub(crate) fn listeners(port: u16) -> io::Result<Vec<Listener>> {
    let mut found = dump(AF_INET, port, StateFlags::LISTEN, ExtensionFlags::empty())?;
    // The kernel puts a listener at the head of its list, but an IPv6 one that shares its port at the tail.
    found.reverse();
    // A kernel without IPv6 refuses the second question, and then there is nothing to find.
    found.extend(dump(AF_INET6, port, StateFlags::LISTEN, ExtensionFlags::empty()).unwrap_or_default());
    Ok(found.iter().map(listener).collect())
}

/// The inode of the server's end of the connection whose client end is `client`, once somebody has accepted it. Asked for
/// by name, because a list of all connections takes as long as there are many.
pub(crate) fn server_end(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u64>> {
    let socket_id = SocketId {
        source_port: server.port(),
        source_address: server.ip(),
        destination_port: client.port(),
        destination_address: client.ip(),
        cookie: ANY_COOKIE,
        ..SocketId::new_v4()
    };
    let family = if client.is_ipv4() { AF_INET } else { AF_INET6 };
    let none = ExtensionFlags::empty();
    let question =
        InetRequest { family, protocol: IPPROTO_TCP, extensions: none, states: StateFlags::all(), socket_id };
    let mut found = None;
    let answer = exchange(SockDiagMessage::InetRequest(question), 0, &mut |answer| {
        if let SockDiagMessage::InetResponse(socket) = answer {
            found = Some(connection(&socket));
        }
    });
    match answer {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // For a connection that is gone the kernel names the listener.
        _ => answer.map(|()| found.filter(|it| it.peer == client && it.inode != 0).map(|it| it.inode)),
    }
}

/// The servers' ends of all connections on `port`.
pub(crate) fn connections(port: u16) -> io::Result<Vec<Connection>> {
    let mut found = dump(AF_INET, port, open(), ExtensionFlags::INFO)?;
    found.extend(dump(AF_INET6, port, open(), ExtensionFlags::INFO).unwrap_or_default());
    Ok(found.iter().map(connection).collect())
}

/// How long the oldest handshakes on `port` have been waiting for the client's last word.
pub(crate) fn oldest_handshake(port: u16) -> io::Result<Option<Duration>> {
    let mut found = dump(AF_INET, port, StateFlags::SYN_RECV, ExtensionFlags::empty())?;
    found.extend(dump(AF_INET6, port, StateFlags::SYN_RECV, ExtensionFlags::empty()).unwrap_or_default());
    let age = |socket: &InetResponse| match socket.header.timer {
        Some(Timer::Retransmit(left, repeats)) => handshake_age(left, repeats),
        _ => Duration::ZERO,
    };
    Ok(found.iter().map(age).max())
}

/// The first answer is repeated after a second, and then after twice the time each.
fn handshake_age(left: Duration, repeats: u8) -> Duration {
    let waits = (1u64 << (u32::from(repeats).min(16) + 1)) - 1;
    Duration::from_secs(waits).saturating_sub(left)
}

/// States in which a connection has two sides that may still talk.
fn open() -> StateFlags {
    StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT
}

/// Where everybody listens, whatever the port.
pub(crate) fn all_listeners() -> io::Result<Vec<Listener>> {
    let mut found = inet(AF_INET, ANY_PORT, StateFlags::LISTEN, ExtensionFlags::empty())?;
    found.extend(inet(AF_INET6, ANY_PORT, StateFlags::LISTEN, ExtensionFlags::empty()).unwrap_or_default());
    Ok(found.iter().map(listener).collect())
}

/// The other end of a connected UNIX socket, once somebody has accepted it.
pub(crate) fn unix_peer(inode: u64) -> io::Result<Option<u64>> {
    let socket = unix(inode, ShowFlags::PEER)?;
    Ok(socket.and_then(|socket| socket.peer()).map(u64::from).filter(|peer| *peer != 0))
}

/// How many wait in the queue of a UNIX listener.
pub(crate) fn unix_queued(inode: u64) -> io::Result<Option<u32>> {
    let queued = |socket: UnixResponse| {
        socket.nlas.iter().find_map(|nla| match nla {
            UnixNla::ReceiveQueueLength(queued, _) => Some(*queued),
            _ => None,
        })
    };
    Ok(unix(inode, ShowFlags::RQLEN)?.and_then(queued))
}

/// The servers' ends of all connections to the UNIX socket at `path`.
pub(crate) fn unix_connections(path: &Path) -> io::Result<Vec<u64>> {
    let question =
        UnixRequest { state_flags: UnixStates::ESTABLISHED, inode: 0, show_flags: ShowFlags::NAME, cookie: ANY_COOKIE };
    let mut found = Vec::new();
    exchange(SockDiagMessage::UnixRequest(question), NLM_F_DUMP, &mut |answer| {
        if let SockDiagMessage::UnixResponse(socket) = answer
            && matches!(socket.name(), Some(UnixDiagName::Pathname(name)) if Path::new(name) == path)
        {
            found.push(socket.header.inode.into());
        }
    })?;
    Ok(found)
}

/// Stands for whichever cookie the socket has.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// In a question: of every port.
const ANY_PORT: u16 = 0;

fn unix(inode: u64, show_flags: ShowFlags) -> io::Result<Option<UnixResponse>> {
    let inode = u32::try_from(inode).map_err(io::Error::other)?;
    let question = UnixRequest { state_flags: UnixStates::all(), inode, show_flags, cookie: ANY_COOKIE };
    let mut found = None;
    exchange(SockDiagMessage::UnixRequest(question), 0, &mut |answer| {
        if let SockDiagMessage::UnixResponse(socket) = answer {
            found = Some(*socket);
        }
    })?;
    Ok(found)
}

fn dump(family: u8, port: u16, states: StateFlags, extensions: ExtensionFlags) -> io::Result<Vec<InetResponse>> {
    let mut found = inet(family, port, states, extensions)?;
    // An old kernel may not heed the port of the question.
    found.retain(|socket| socket.header.socket_id.source_port == port);
    Ok(found)
}

fn inet(family: u8, port: u16, states: StateFlags, extensions: ExtensionFlags) -> io::Result<Vec<InetResponse>> {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let socket_id = SocketId { source_port: port, ..any };
    let question = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
    let mut found = Vec::new();
    exchange(SockDiagMessage::InetRequest(question), NLM_F_DUMP, &mut |answer| {
        if let SockDiagMessage::InetResponse(socket) = answer {
            found.push(*socket);
        }
    })?;
    Ok(found)
}

/// Asks, and reads the answer to its end: that of a dump is said, that of a single question is one datagram.
fn exchange(question: SockDiagMessage, flags: u16, found: &mut dyn FnMut(SockDiagMessage)) -> io::Result<()> {
    let mut netlink = Socket::new(NETLINK_SOCK_DIAG)?;
    netlink.bind_auto()?;
    netlink.connect(&NetlinkAddr::new(0, 0))?;
    netlink.send(&request(question, flags), 0)?;
    while receive(&netlink, found)? && flags & NLM_F_DUMP != 0 {}
    Ok(())
}

fn request(question: SockDiagMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, question.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads one datagram of the answer; false when it was the last.
fn receive(netlink: &Socket, found: &mut dyn FnMut(SockDiagMessage)) -> io::Result<bool> {
    let (datagram, _) = netlink.recv_from_full()?;
    let mut rest = datagram.as_slice();
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::InnerMessage(answer) => found(answer),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(_) => return Ok(false),
            _ => {}
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(true)
}

fn listener(response: &InetResponse) -> Listener {
    let id = &response.header.socket_id;
    let address = SocketAddr::new(id.source_address, id.source_port);
    // One that is hidden stays where it stands in its group.
    let interface = if id.interface_id == NOWHERE { 0 } else { id.interface_id };
    Listener {
        local: SocketAddr::new(plain(id.source_address), id.source_port),
        kind: GroupKey { family: response.header.family, address, interface },
        inode: response.header.inode.into(),
        queued: response.header.recv_queue,
    }
}

fn connection(response: &InetResponse) -> Connection {
    let id = &response.header.socket_id;
    let info = response.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => idle(info),
        _ => None,
    });
    Connection {
        local: SocketAddr::new(plain(id.source_address), id.source_port),
        peer: SocketAddr::new(plain(id.destination_address), id.destination_port),
        inode: response.header.inode.into(),
        has_pending: response.header.recv_queue > 0 || response.header.send_queue > 0,
        idle: info,
    }
}

/// Where `struct tcp_info` (`linux/tcp.h`) has the milliseconds since data were sent and received last.
const LAST_DATA_SENT: usize = 44;
const LAST_DATA_RECEIVED: usize = 52;

fn idle(tcp_info: &[u8]) -> Option<Idle> {
    let millis = |at: usize| {
        let bytes = tcp_info.get(at..at + 4)?.try_into().ok()?;
        Some(Duration::from_millis(u32::from_ne_bytes(bytes).into()))
    };
    Some(Idle { sent: millis(LAST_DATA_SENT)?, received: millis(LAST_DATA_RECEIVED)? })
}

/// An IPv4 address in IPv6 clothes is compared as what it is.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    fn inode_of(fd: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    #[test]
    fn finds_the_listener_on_a_port_and_no_other() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let inodes: Vec<_> = listeners(port).unwrap().iter().map(|socket| socket.inode).collect();
            assert_eq!(inodes, [inode_of(&listener)], "{address}");
        }
    }

    #[test]
    fn finds_the_servers_end_of_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let found = server_end(peer, client.peer_addr().unwrap()).unwrap();
        assert_eq!(found, Some(inode_of(&server)));
        drop(server);
        let later = server_end(peer, client.peer_addr().unwrap()).unwrap();
        assert_eq!(later, None, "a closed end has no owner");
    }
    #[test]
    fn listeners_are_told_in_the_order_of_their_listen_calls() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = address.parse().unwrap();
            let bind = |address: SocketAddr| {
                let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
                socket.set_reuse_port(true)?;
                socket.bind(&address.into())?;
                io::Result::Ok(socket)
            };
            let Ok(first) = bind(address) else { continue };
            let address = first.local_addr().unwrap().as_socket().unwrap();
            let mut sockets = vec![first];
            sockets.extend((0..4).map(|_| bind(address).unwrap()));
            sockets.swap(1, 3);
            for socket in &sockets {
                socket.listen(16).unwrap();
            }
            let expected: Vec<_> = sockets.iter().map(inode_of).collect();
            let told: Vec<_> = listeners(address.port()).unwrap().iter().map(|socket| socket.inode).collect();
            assert_eq!(told, expected, "{address}");
        }
    }

    #[test]
    fn queues_and_idle_times_are_told() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let queued = || listeners(address.port()).unwrap()[0].queued;
        while queued() == 0 {
            std::thread::yield_now();
        }
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(queued(), 0);
        let seen = || connections(address.port()).unwrap().into_iter().find(|it| it.peer == peer).unwrap();
        assert!(!seen().has_pending && seen().inode == inode_of(&server), "{:?}", seen());
        client.write_all(b"GET").unwrap();
        while !seen().has_pending {
            std::thread::yield_now();
        }
        let idle = seen().idle.unwrap();
        assert!(idle.received <= idle.sent && idle.sent < Duration::from_mins(1), "{idle:?}");
    }

    #[test]
    fn a_unix_socket_tells_its_peer_and_its_queue() {
        use std::os::unix::net::{UnixListener, UnixStream};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(unix_queued(inode_of(&listener)).unwrap(), Some(0));
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(unix_queued(inode_of(&listener)).unwrap(), Some(1));
        assert_eq!(unix_peer(inode_of(&client)).unwrap(), None, "nobody has accepted it");
        let (server, _) = listener.accept().unwrap();
        assert_eq!(unix_queued(inode_of(&listener)).unwrap(), Some(0));
        assert_eq!(unix_peer(inode_of(&client)).unwrap(), Some(inode_of(&server)));
        assert_eq!(unix_connections(&path).unwrap(), [inode_of(&server)]);
        assert_eq!(unix_connections(directory.path()).unwrap(), Vec::<u64>::new());
        let gone = inode_of(&server);
        drop(server);
        assert!(unix_queued(gone).is_err());
    }

    #[test]
    fn the_age_of_a_handshake_follows_from_its_timer() {
        for (left_ms, repeats, age_ms) in [(1000, 0, 0), (970, 0, 30), (2000, 1, 1000), (3500, 2, 3500), (1100, 0, 0)] {
            let age = handshake_age(Duration::from_millis(left_ms), repeats);
            assert_eq!(age, Duration::from_millis(age_ms), "{left_ms} {repeats}");
        }
    }
}
