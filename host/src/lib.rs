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

pub mod cli;
pub mod data;
pub mod domain;
pub mod model;
pub mod monitor;
pub mod pipeline;
pub mod plugin;
pub mod process;
pub mod project;
pub mod registry;
pub mod serve;
pub mod server;
pub mod store;
pub mod task;
pub mod track;
pub mod train;
