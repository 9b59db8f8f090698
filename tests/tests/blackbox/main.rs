//! Black-box tests: every one starts the real binary on real data.

mod bucket;
mod data;
mod monitor;
mod plugins;
mod registry;
mod serving;
mod tracking;
mod training;
