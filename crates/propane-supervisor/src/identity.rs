//! As whom workers run: `runAsUser` and `runAsGroup`.

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, setgroups, setresgid, setresuid};

use crate::spawn::Identity;

/// Why workers cannot run as somebody else.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum IdentityError {
    /// Only root can.
    #[error("runAsUser and runAsGroup need a manager that runs as root")]
    NotRoot,
    /// The user is not known here.
    #[error("runAsUser: there is no user {0:?} on this machine")]
    NoUser(String),
    /// The group is not known here.
    #[error("runAsGroup: there is no group {0:?} on this machine")]
    NoGroup(String),
    /// Workers bind by themselves, and this port is root's.
    #[error(
        "runAsUser: workers that bind by themselves cannot bind port {port}, because ports below {first} are root's; \
         put {{fd}} into workerCommand, so that the manager binds it for them, or use another port"
    )]
    RootsPort {
        /// The port.
        port: u16,
        /// The first that everybody may bind.
        first: u16,
    },
}

/// What `ip_unprivileged_port_start` is unless somebody has changed it (`ip(7)`).
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// Whether workers that run as `identity` can bind `port` by themselves.
pub(crate) fn check_port(identity: &Identity, port: u16) -> Result<(), IdentityError> {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = setting.ok().and_then(|first| first.trim().parse().ok()).unwrap_or(FIRST_UNPRIVILEGED_PORT);
    if identity.uid == 0 || port >= first { Ok(()) } else { Err(IdentityError::RootsPort { port, first }) }
}

/// Looks the names (or numbers) up. Empty names ask for nothing.
pub(crate) fn find(user: &str, group: &str) -> Result<Option<Identity>, IdentityError> {
    if user.is_empty() && group.is_empty() {
        return Ok(None);
    }
    if !Uid::effective().is_root() {
        return Err(IdentityError::NotRoot);
    }
    let account = (!user.is_empty()).then(|| find_user(user)).transpose()?;
    let gid = match (group, &account) {
        ("", Some(account)) => account.gid,
        ("", None) => Gid::effective(),
        (name, _) => find_group(name)?,
    };
    let groups = account.as_ref().and_then(|account| groups_of(&account.name, gid)).unwrap_or_else(|| vec![gid]);
    let uid = account.map_or_else(Uid::effective, |account| account.uid);
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok(Some(Identity { uid: uid.as_raw(), gid: gid.as_raw(), groups }))
}

/// Makes this process run as somebody else, for good: groups first, because each step needs the right that the last one
/// gives up.
pub(crate) fn take(identity: &Identity) -> io::Result<()> {
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

fn find_user(name: &str) -> Result<User, IdentityError> {
    let by_number = || name.parse().ok().and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten());
    User::from_name(name).ok().flatten().or_else(by_number).ok_or_else(|| IdentityError::NoUser(name.to_owned()))
}

fn find_group(name: &str) -> Result<Gid, IdentityError> {
    let by_number = || name.parse().ok().map(Gid::from_raw);
    let by_name = Group::from_name(name).ok().flatten().map(|group| group.gid);
    by_name.or_else(by_number).ok_or_else(|| IdentityError::NoGroup(name.to_owned()))
}

fn groups_of(user: &str, gid: Gid) -> Option<Vec<Gid>> {
    getgrouplist(&CString::new(user).ok()?, gid).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up() {
        assert_eq!(find("", ""), Ok(None));
        let expected = |error| if Uid::effective().is_root() { error } else { IdentityError::NotRoot };
        assert_eq!(find("no-such-user", ""), Err(expected(IdentityError::NoUser("no-such-user".to_owned()))));
        assert_eq!(find("", "no-such-group"), Err(expected(IdentityError::NoGroup("no-such-group".to_owned()))));
        if Uid::effective().is_root() {
            let nobody = find("nobody", "").unwrap().unwrap();
            assert_eq!(find(&nobody.uid.to_string(), "").unwrap().unwrap(), nobody, "a number does as well");
            assert_eq!(find("nobody", "0").unwrap().unwrap().gid, 0);
        }
    }
}
