//! What a child runs on until it execs.
#![expect(unsafe_code, reason = "memory that the compiler does not hand out; each block says why it holds")]

use std::io;
use std::ptr::NonNull;

use nix::libc;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// Enough for the calls that a child makes, none of which recurses, also where a preloaded library has put itself before one of them.
const STACK_BYTES: usize = 128 * 1024;

/// What lies below a stack: a multiple of every page size that Linux has on the machines that Rust runs on.
const GUARD_BYTES: usize = 64 * 1024;

/// What a child runs on until it execs. Below it lies memory that nobody may touch: a call that goes too deep ends the
/// child, and spoils nothing of the manager's. Only what is used of it takes memory.
#[derive(Debug)]
pub(super) struct Stack {
    base: NonNull<libc::c_void>,
}

impl Stack {
    pub(super) fn new() -> io::Result<Self> {
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: new memory, at a place of the kernel's choice.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), GUARD_BYTES + STACK_BYTES, access, kind) }?;
        let stack = Self { base: NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)? };
        // SAFETY: the lower part of that memory, which nobody uses yet.
        unsafe { mprotect(base, GUARD_BYTES, MprotectFlags::empty()) }?;
        Ok(stack)
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the upper part of memory that is this value's alone, is all zero at first, and lasts as long as it.
        unsafe { std::slice::from_raw_parts_mut(self.base.cast().add(GUARD_BYTES).as_ptr(), STACK_BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: what `new` has mapped; nothing borrows it any more. It cannot fail.
        let _ = unsafe { munmap(self.base.as_ptr(), GUARD_BYTES + STACK_BYTES) };
    }
}
