//! Gives memory back that was needed for a while only.
//!
//! Most of what a manager has in memory is code that ran once: the command line, the configuration, the start itself. The
//! kernel maps it in passing and never takes it out again while there is room.
#![expect(unsafe_code, reason = "madvise has no safe form; the block says why it holds")]

use nix::libc;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

/// Takes the code of this process out of its memory. What still runs is mapped in again as it is needed, from the page
/// cache, at less than a microsecond for 64 KiB.
pub(crate) fn give_back_code() {
    // Without the list nothing is given back, and nothing is lost.
    let maps = Process::myself().and_then(|process| process.maps()).into_iter().flatten();
    for map in maps.filter(is_code) {
        let (start, end) = map.address;
        let Ok(length) = usize::try_from(end - start) else { continue };
        let address = std::ptr::with_exposed_provenance_mut::<libc::c_void>(usize::try_from(start).unwrap_or(0));
        // SAFETY: a mapping of a file that was never writable holds nothing but the file, so that dropping its pages
        // changes no byte of what is read from it later. A failure changes nothing at all.
        unsafe { libc::madvise(address, length, libc::MADV_DONTNEED) };
    }
}

/// Whether a mapping is code of a file. Data that only looks constant is none: the loader has written to it.
fn is_code(map: &MemoryMap) -> bool {
    let expected = MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE;
    map.perms == expected && matches!(map.pathname, MMapPath::Path(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_code_kib() -> u64 {
        let maps = Process::myself().unwrap().smaps().unwrap();
        let rss = |map: &MemoryMap| map.extension.map.get("Rss").copied().unwrap_or(0) / 1024;
        maps.into_iter().filter(is_code).map(|map| rss(&map)).sum()
    }

    #[test]
    fn code_goes_and_comes_back() {
        let before = resident_code_kib();
        give_back_code();
        // What takes the figure is code as well, and in memory again.
        let after = resident_code_kib();
        assert!(after > 0 && after < before, "{before} KiB, then {after} KiB");
    }
}
