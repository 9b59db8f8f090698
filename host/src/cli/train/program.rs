use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::super::plugin::parse_pair;
use super::TrainOptions;
use crate::store::Store;
use crate::train::command::{CommandTrainer, Program, ProgramSpec};

/// The program of `--model command`.
#[derive(Debug, clap::Args)]
pub(super) struct ProgramOptions {
    /// A file or folder that the program needs, below the current one; may be given many times. Files that the command
    /// line names are among them. The program runs in a folder that has these and nothing else.
    #[arg(long = "input", value_name = "PATH")]
    inputs: Vec<PathBuf>,
    /// A variable that the program gets and that is recorded; may be given many times.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    environment: Vec<(String, String)>,
    /// The program that trains and its arguments, after `--`, with `--model command`.
    #[arg(last = true, value_name = "PROGRAM")]
    words: Vec<String>,
}

impl TrainOptions {
    /// The trainer that runs the program of the command line, if there is to be one.
    pub(in crate::cli) fn program(&self, store: &Store) -> anyhow::Result<Option<CommandTrainer>> {
        let ProgramOptions { inputs, environment, words } = &self.program;
        if !self.is_command() {
            let given = [
                ("a program after `--`", !words.is_empty()),
                ("`--input`", !inputs.is_empty()),
                ("`--env`", !environment.is_empty()),
            ];
            if let Some((what, _)) = given.iter().find(|(_, is_given)| *is_given) {
                bail!("{what} is for `--model command`");
            }
            return Ok(None);
        }
        let spec = ProgramSpec {
            words: words.clone(),
            inputs: inputs.clone(),
            environment: environment.clone(),
            folder: std::env::current_dir().context("failed to find the current folder")?,
        };
        let host = std::env::current_exe().context("failed to find this program")?;
        Ok(Some(CommandTrainer::new(Program::open(store, spec)?, host)))
    }
}
