//! The memory allocator of a component.
//!
//! Rust's default allocator asks for memory with `memory.grow` from the first byte on. For the host each growth is a
//! system call, and a fresh instance would begin every call with one. Here the first megabyte is part of the component's
//! initial memory, which costs nothing until it is touched; only what exceeds it is grown.
//!
//! A call makes and frees some ten small allocations, always of the same sizes. What is freed is therefore kept, in a list
//! for each size, for the next that asks; only what a list has no room for goes back to the general allocator, so that
//! memory is kept by few pieces and not lost to other sizes.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr;

use talc::base::Talc;
use talc::base::binning::Binning;
use talc::cell::TalcSyncCell;
use talc::source::Source;
use talc::wasm::WasmBinning;

/// Memory that is there from the start: enough for a piece of 64 KiB that becomes four times as long, and for an answer.
const START_BYTES: usize = 1024 * 1024;

const PAGE_BYTES: usize = 64 * 1024;

/// What the allocator adds around an allocation, and around the first piece of memory that it gets.
const OVERHEAD_BYTES: usize = 4 * 1024;

/// The smallest pieces that are kept; the others are twice, four times … as large. Also the alignment of all.
const KEPT_BYTES_MIN: usize = 16;

/// Sizes of pieces that are kept, the largest being 4 KiB: a row of a thousand floats.
const KEPT_SIZES: usize = 9;

/// Pieces of one size that are kept.
const KEPT_MAX: usize = 16;

static mut START: [MaybeUninit<u8>; START_BYTES] = [MaybeUninit::uninit(); START_BYTES];

#[global_allocator]
static ALLOCATOR: KeepingAllocator = KeepingAllocator {
    general: TalcSyncCell::new_wasm(StartThenGrow { started: false }),
    kept: UnsafeCell::new([const { Kept { pieces: [ptr::null_mut(); KEPT_MAX], count: 0 } }; KEPT_SIZES]),
};

/// Keeps small pieces that were freed, in front of a general allocator.
struct KeepingAllocator {
    general: TalcSyncCell<StartThenGrow, WasmBinning>,
    kept: UnsafeCell<[Kept; KEPT_SIZES]>,
}

/// Free pieces of one size.
struct Kept {
    pieces: [*mut u8; KEPT_MAX],
    count: usize,
}

impl Kept {
    #[inline]
    fn take(&mut self) -> Option<*mut u8> {
        let last = self.count.checked_sub(1)?;
        let piece = *self.pieces.get(last)?;
        self.count = last;
        Some(piece)
    }

    /// Whether there was room for `piece`.
    #[inline]
    fn put(&mut self, piece: *mut u8) -> bool {
        let Some(place) = self.pieces.get_mut(self.count) else { return false };
        *place = piece;
        self.count += 1;
        true
    }
}

/// Which of the sizes that are kept holds `layout`; none where none does.
#[inline]
fn size_index(layout: Layout) -> Option<usize> {
    let units = layout.size().saturating_sub(1) / KEPT_BYTES_MIN;
    let index = units.checked_ilog2().map_or(0, |log| log as usize + 1);
    (index < KEPT_SIZES && layout.align() <= KEPT_BYTES_MIN).then_some(index)
}

/// What pieces of a size are to the general allocator.
#[inline]
const fn piece_layout(index: usize) -> Layout {
    // SAFETY: a power of two for the alignment, and a size far from the largest.
    unsafe { Layout::from_size_align_unchecked(KEPT_BYTES_MIN << index, KEPT_BYTES_MIN) }
}

// SAFETY: a component has one thread.
unsafe impl Sync for KeepingAllocator {}

impl KeepingAllocator {
    /// Calls `with` with the list of the pieces of a size.
    #[inline]
    fn with_kept<T>(&self, index: usize, with: impl FnOnce(&mut Kept) -> T) -> Option<T> {
        // SAFETY: there is one thread, and neither of the two uses of this calls the allocator.
        unsafe { &mut *self.kept.get() }.get_mut(index).map(with)
    }
}

// SAFETY: a piece that is kept was allocated with `piece_layout` of its size, which holds whatever `size_index` leads
// to it, and is handed out once, because taking it removes it. It goes back to the general allocator with that layout.
unsafe impl GlobalAlloc for KeepingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (kept, layout) = match size_index(layout) {
            Some(index) => (self.with_kept(index, Kept::take).flatten(), piece_layout(index)),
            None => (None, layout),
        };
        // SAFETY: the caller promises that the size is not zero, and the other layout's is not.
        kept.unwrap_or_else(|| unsafe { self.general.alloc(layout) })
    }

    #[inline]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let (is_kept, layout) = match size_index(layout) {
            Some(index) => (self.with_kept(index, |kept| kept.put(piece)) == Some(true), piece_layout(index)),
            None => (false, layout),
        };
        if !is_kept {
            // SAFETY: it is the layout that `alloc` has passed on.
            unsafe { self.general.dealloc(piece, layout) }
        }
    }

    #[inline]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the alignment is one and that the size does not overflow.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (size_index(layout), size_index(new_layout)) {
            // SAFETY: neither piece is one of ours, and the caller's promises are handed on.
            (None, None) => unsafe { self.general.realloc(piece, layout, new_size) },
            (old, new) if old == new => piece,
            // SAFETY: a new piece overlaps with none, and both hold what is copied.
            _ => unsafe {
                let moved = self.alloc(new_layout);
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(piece, moved, layout.size().min(new_size));
                    self.dealloc(piece, layout);
                }
                moved
            },
        }
    }
}

/// Hands out [`START`] first, then pages that it grows the memory by.
#[derive(Debug)]
struct StartThenGrow {
    started: bool,
}

// SAFETY: `acquire` allocates nothing, and every region is given to the allocator once: `START` is private to this
// module and guarded by `started`, and grown pages are new.
unsafe impl Source for StartThenGrow {
    fn acquire<B: Binning>(talc: &mut Talc<Self, B>, layout: Layout) -> Result<(), ()> {
        let (base, bytes) = if talc.source.started {
            let wanted = layout.size().saturating_add(layout.align()).saturating_add(OVERHEAD_BYTES);
            let pages = wanted.div_ceil(PAGE_BYTES);
            let previous = core::arch::wasm32::memory_grow::<0>(pages);
            if previous == usize::MAX {
                return Err(());
            }
            ((previous * PAGE_BYTES) as *mut u8, pages * PAGE_BYTES)
        } else {
            talc.source.started = true;
            ((&raw mut START).cast(), START_BYTES)
        };
        // SAFETY: nothing else uses the region, as said above.
        unsafe { talc.claim(base, bytes) }.map(|_| ()).ok_or(())
    }
}
