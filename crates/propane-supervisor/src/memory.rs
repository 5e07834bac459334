//! Gives memory back that was needed for a while only.
//!
//! Most of what a manager has in memory is code that ran once: the command line, the configuration, the start itself. The
//! kernel maps it in passing and never takes it out again while there is room.
#![expect(unsafe_code, reason = "madvise and malloc_trim have no safe forms; each block says why it holds")]

use procfs::ProcResult;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps, Process};
use rustix::mm::{Advice, madvise};

/// A part of this process's memory that can be read from its file again.
pub(crate) type Range = std::ops::Range<usize>;

/// Takes the code of this process out of its memory. What still runs is mapped in again as it is needed, from the page
/// cache, at less than a microsecond for 64 KiB.
pub(crate) fn give_back_code() {
    // Without the list nothing is given back, and nothing is lost.
    give_back(&ranges(Process::myself().and_then(|process| process.maps()), is_code));
}

/// Code, and data that was never written to: what a process can do without that only waits.
pub(crate) fn untouched_files() -> Vec<Range> {
    ranges(Process::myself().and_then(|process| process.smaps()), |map| is_code(map) || is_untouched_data(map))
}

fn ranges(maps: ProcResult<MemoryMaps>, is_wanted: impl Fn(&MemoryMap) -> bool) -> Vec<Range> {
    let wanted = maps.into_iter().flatten().filter(is_wanted);
    let range = |map: MemoryMap| Some(usize::try_from(map.address.0).ok()?..usize::try_from(map.address.1).ok()?);
    wanted.filter_map(range).collect()
}

/// Takes what [`untouched_files`] has found out of memory. Its own calls go to the kernel directly, past libc, so that of
/// all code only this is in memory afterwards.
pub(crate) fn give_back(ranges: &[Range]) {
    for range in ranges {
        let address = std::ptr::with_exposed_provenance_mut(range.start);
        // SAFETY: a mapping of a file that was never written to holds nothing but the file, so that dropping its pages
        // changes no byte of what is read from it later. A failure changes nothing at all.
        let _ = unsafe { madvise(address, range.len(), Advice::LinuxDontNeed) };
    }
}

/// Gives the heap's free pages back, where the allocator keeps them.
pub(crate) fn give_back_heap() {
    // SAFETY: it takes no argument that could be wrong, and lets go of pages without an allocation only.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0)
    };
}

/// Whether a mapping is code of a file. Data that only looks constant is none: the loader has written to it.
fn is_code(map: &MemoryMap) -> bool {
    let expected = MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE;
    map.perms == expected && matches!(map.pathname, MMapPath::Path(_))
}

/// Whether a mapping is data of a file that cannot be written to and has no page of its own: the loader, which may have
/// written to it, has not.
fn is_untouched_data(map: &MemoryMap) -> bool {
    let own = map.extension.map.get("Anonymous").copied();
    map.perms == MMPermissions::READ | MMPermissions::PRIVATE
        && matches!(map.pathname, MMapPath::Path(_))
        && own == Some(0)
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
