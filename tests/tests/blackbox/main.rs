//! Black-box tests: every one starts the real binary on real data.

mod archive;
mod browsers;
mod bucket;
mod compatibility;
mod data;
mod endpoints;
mod evaluate;
mod faults;
mod gc;
mod imported;
mod inference;
mod lineage;
mod models;
mod monitor;
mod multipart;
mod networks;
mod pipelines;
mod place;
mod plugins;
mod registry;
mod serving;
mod sweeps;
mod tracking;
mod training;
mod transform;
mod user_scripts;
