//! Black-box tests: every one starts the real binary on real data.

mod archive;
mod browsers;
mod bucket;
mod compatibility;
mod data;
mod faults;
mod evaluate;
mod gc;
mod monitor;
mod multipart;
mod pipelines;
mod place;
mod plugins;
mod registry;
mod serving;
mod tracking;
mod training;
mod user_scripts;
