//! The `host` program; everything it does is in the library.

use std::process::ExitCode;

/// A request makes some hundred small allocations, often freed by another thread; see docs/benchmarks.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    host::cli::main()
}
