//! `host`: a WebAssembly plugin host for machine-learning operations.
//!
//! One module per layer; arrows point down only (see ARCHITECTURE.md).
#![cfg_attr(
    test,
    allow(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::print_stderr,
        clippy::print_stdout,
        clippy::unwrap_used
    )
)]

pub mod domain;
pub mod plugin;
