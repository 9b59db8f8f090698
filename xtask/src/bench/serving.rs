//! One image over HTTP and gRPC: the program, the same server answering a constant, and other servers with the same model.
//!
//! In parts, of which each writes a table of its own as soon as it is measured.

mod cold_start;
mod form;
mod full_load;
mod memory;
mod polled;
mod protobuf;
mod rate;
mod servers;
mod swap;

use std::os::unix::process::CommandExt as _;
use std::str::FromStr;

use super::model::ServedModel;
use super::{calls, report};
use crate::error::{Context as _, Result};
use crate::layout::Layout;
use crate::setup::{self, Scope, Tool};
use crate::terminal;
use servers::Servers;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Load,
    InProcess,
    ColdStart,
    Memory,
    Rate,
    Polled,
    Swap,
}

/// Parts, as they are typed: their names with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts(Vec<Part>);

/// How much is measured.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) parts: Parts,
    /// Of each run of a load generator.
    pub(super) seconds: u32,
    pub(super) rounds: u32,
    /// Whether to measure what is built already.
    pub(super) is_set_up: bool,
}

impl Part {
    const ALL: [Self; 7] =
        [Self::Load, Self::InProcess, Self::ColdStart, Self::Memory, Self::Rate, Self::Polled, Self::Swap];

    fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::InProcess => "in-process",
            Self::ColdStart => "cold-start",
            Self::Memory => "memory",
            Self::Rate => "rate",
            Self::Polled => "polled",
            Self::Swap => "swap",
        }
    }

    /// The mark of its table in docs/benchmarks.md.
    fn mark(self) -> String {
        if self == Self::Load { "serving".to_owned() } else { format!("serving-{}", self.name()) }
    }

    fn run(self, servers: &Servers<'_>, seconds: u32, rounds: u32) -> Result<String> {
        match self {
            Self::Load => full_load::run(servers, seconds, rounds),
            // What a request costs without a server, by criterion.
            Self::InProcess => calls::measure(servers.layout, servers.model, &["request".to_owned()]),
            Self::ColdStart => cold_start::run(servers),
            Self::Memory => memory::run(servers, seconds),
            Self::Rate => rate::run(servers, seconds, rounds),
            Self::Polled => polled::run(servers, seconds, rounds),
            Self::Swap => swap::run(servers, seconds, rounds),
        }
    }
}

impl Default for Parts {
    fn default() -> Self {
        Self(Part::ALL.to_vec())
    }
}

impl FromStr for Parts {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let part = |name: &str| Part::ALL.into_iter().find(|part| part.name() == name).ok_or(());
        text.split(',').map(part).collect::<std::result::Result<_, _>>().map(Self)
    }
}

pub(super) fn run(layout: &Layout, options: &Options) -> Result<()> {
    if cfg!(debug_assertions) {
        return run_optimized(layout);
    }
    let Options { parts, seconds, rounds, is_set_up } = options;
    if !is_set_up {
        setup::run(layout, Scope::Demo)?;
    }
    setup::ensure_tools(&[Tool::WRK])?;
    let model = ServedModel::ensure(layout)?;
    let servers = Servers::ensure(layout, &model)?;
    terminal::note(&servers.cores.summary());
    for part in &parts.0 {
        let result = part.run(&servers, *seconds, *rounds)?;
        terminal::line(&format!("\n{result}"));
        let name = part.name();
        let command =
            format!("cargo xtask bench serving --parts {name} --seconds {seconds} --rounds {rounds}");
        report::write(layout, &part.mark(), &command, &result)?;
    }
    Ok(())
}

/// Runs this program as it is made to be quick, not as it is quickly made: its generator has the servers' cores.
fn run_optimized(layout: &Layout) -> Result<()> {
    let mut again = setup::cargo(layout);
    again.args(["run", "--quiet", "--release", "--package", "xtask", "--"]).args(std::env::args_os().skip(1));
    // Returns only where it cannot be started.
    Err(again.exec()).context("run the optimized program")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_with_commas_between() {
        assert_eq!("swap,load".parse(), Ok(Parts(vec![Part::Swap, Part::Load])));
        assert_eq!(Part::ALL.map(Part::name).join(",").parse(), Ok(Parts::default()));
        for text in ["", "load,", "Load", "load swap"] {
            assert_eq!(text.parse::<Parts>(), Err(()), "{text}");
        }
    }
}
