//! Which TCP sockets there are on a port, asked of the kernel (`sock_diag(7)`) rather than read from `/proc/net/tcp`,
//! which costs milliseconds on a busy machine (LINUX-NOTES §6).

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// A socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpSocket {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) inode: u64,
}

/// The listening sockets on `port`, of both address families.
pub(crate) fn listeners(port: u16) -> io::Result<Vec<TcpSocket>> {
    let mut found = dump(AF_INET, StateFlags::LISTEN)?;
    // A kernel without IPv6 refuses the second question, and then there is nothing to find.
    found.extend(dump(AF_INET6, StateFlags::LISTEN).unwrap_or_default());
    found.retain(|socket| socket.local.port() == port);
    Ok(found)
}

/// The inode of the server's end of the connection whose client end is `client`.
pub(crate) fn server_end(client: SocketAddr, server: SocketAddr) -> io::Result<Option<u64>> {
    let family = if client.is_ipv4() { AF_INET } else { AF_INET6 };
    let open = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
    let is_it = |socket: &TcpSocket| socket.peer == client && socket.local == server;
    Ok(dump(family, open)?.into_iter().find(is_it).map(|socket| socket.inode).filter(|inode| *inode != 0))
}

fn dump(family: u8, states: StateFlags) -> io::Result<Vec<TcpSocket>> {
    let mut netlink = Socket::new(NETLINK_SOCK_DIAG)?;
    netlink.bind_auto()?;
    netlink.connect(&NetlinkAddr::new(0, 0))?;
    netlink.send(&request(family, states), 0)?;
    let mut found = Vec::new();
    while receive(&netlink, &mut found)? {}
    Ok(found)
}

fn request(family: u8, states: StateFlags) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let question =
        InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(question).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads one datagram of the answer; false when it was the last.
fn receive(netlink: &Socket, found: &mut Vec<TcpSocket>) -> io::Result<bool> {
    let (datagram, _) = netlink.recv_from_full()?;
    let mut rest = datagram.as_slice();
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4);
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => found.push(tcp_socket(&response)),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::Done(_) => return Ok(false),
            _ => {}
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(true)
}

fn tcp_socket(response: &InetResponse) -> TcpSocket {
    let id = &response.header.socket_id;
    TcpSocket {
        local: SocketAddr::new(plain(id.source_address), id.source_port),
        peer: SocketAddr::new(plain(id.destination_address), id.destination_port),
        inode: response.header.inode.into(),
    }
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
}
