//! The memory allocator of a component.
//!
//! Rust's default allocator asks for memory with `memory.grow` from the first byte on. For the host each growth is a
//! system call, and a fresh instance would begin every call with one. Here the first megabyte is part of the component's
//! initial memory, which costs nothing until it is touched; only what exceeds it is grown.

use std::alloc::Layout;
use std::mem::MaybeUninit;

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

static mut START: [MaybeUninit<u8>; START_BYTES] = [MaybeUninit::uninit(); START_BYTES];

#[global_allocator]
static ALLOCATOR: TalcSyncCell<StartThenGrow, WasmBinning> =
    TalcSyncCell::new_wasm(StartThenGrow { started: false });

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
