//! Memory that forgets: once a process has had a secret in hand, all heap memory that it gives back is zeroed first.
//!
//! A value goes through buffers of libraries (HTTP, TLS, base64) that know nothing of secrets and free them as they are. The binary
//! therefore uses this allocator. Before the first secret it costs one relaxed load for each free.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

static HOLDS: AtomicBool = AtomicBool::new(false);

/// Says that this process has, or is about to have, a secret in its memory. It stays said.
pub fn hold_secrets() {
    // Mostly it was said before: a load leaves the cache line to all cores.
    if !HOLDS.load(Ordering::Relaxed) {
        HOLDS.store(true, Ordering::SeqCst);
    }
}

/// An allocator, that of the system, that zeroes what is freed, once [`hold_secrets`] was called.
#[derive(Debug, Clone, Copy, Default)]
pub struct ZeroingAllocator<A = System>(A);

impl ZeroingAllocator {
    pub const fn new() -> Self {
        Self(System)
    }
}

// SAFETY: passes every call on to the inner allocator, with the layout of the caller. `realloc` is an allocation, a copy of what
// both have room for and a free, as its contract says.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ZeroingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this function, which is the same.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if HOLDS.load(Ordering::Relaxed) {
            // SAFETY: the block is the caller's until it is freed, and has the size of its layout.
            unsafe { forget(block, layout.size()) };
        }
        // SAFETY: as above.
        unsafe { self.0.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !HOLDS.load(Ordering::Relaxed) {
            // SAFETY: as above.
            return unsafe { self.0.realloc(block, layout, new_size) };
        }
        // SAFETY: the caller says that the new size, rounded up to the alignment, is no more than `isize::MAX`, and not zero.
        unsafe {
            let new = self.0.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

/// Zeroes a block in a way that a compiler does not take for useless.
///
/// # Safety
/// `block` is valid for writes of `size` bytes.
unsafe fn forget(block: *mut u8, size: usize) {
    // SAFETY: the caller says so.
    unsafe { ptr::write_bytes(block, 0, size) };
    // SAFETY: no instruction; the compiler must think that it reads the block.
    unsafe { std::arch::asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes of each block that is given back how long it is and whether it is all zeroes.
    #[derive(Default)]
    struct Watched(Mutex<Vec<(usize, bool)>>);

    // SAFETY: passes every call on to the system's allocator.
    unsafe impl GlobalAlloc for Watched {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller keeps the contract of this function, which is the same.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block is the caller's until it is freed, and the test or the allocator under test wrote all of it.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            self.0.lock().unwrap().push((layout.size(), bytes.iter().all(|byte| *byte == 0)));
            // SAFETY: as above.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn a_freed_or_moved_block_is_zeroed_once_there_was_a_secret() {
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        let allocator = ZeroingAllocator(Watched::default());
        hold_secrets();
        // SAFETY: each block is used with its layout, and freed once.
        unsafe {
            let first = allocator.alloc(layout(64));
            ptr::write_bytes(first, 0xaa, 64);
            let grown = allocator.realloc(first, layout(64), 128);
            assert_ne!(first, grown, "a block that grows is moved, so that the old one can be zeroed");
            assert_eq!(std::slice::from_raw_parts(grown, 64), [0xaa; 64]);
            ptr::write_bytes(grown, 0xbb, 128);
            let shrunk = allocator.realloc(grown, layout(128), 32);
            assert_eq!(std::slice::from_raw_parts(shrunk, 32), [0xbb; 32]);
            allocator.dealloc(shrunk, layout(32));
        }
        assert_eq!(*allocator.0.0.lock().unwrap(), [(64, true), (128, true), (32, true)]);
    }

    #[test]
    fn nothing_beside_a_block_is_zeroed() {
        let mut kept = [0xaa_u8; 64];
        // SAFETY: the array is valid for writes of its length.
        unsafe { forget(kept.as_mut_ptr(), 32) };
        assert_eq!((&kept[..32], &kept[32..]), (&[0; 32][..], &[0xaa; 32][..]));
    }
}
