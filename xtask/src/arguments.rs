//! The command line. Small enough to do without a library, which would be most of this program's build time.

use std::collections::VecDeque;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::terminal;

/// Arguments that nobody has asked for yet.
#[derive(Debug)]
pub(crate) struct Arguments {
    rest: VecDeque<String>,
    /// Those after `--`.
    trailing: Vec<String>,
}

impl Arguments {
    /// The arguments of this process.
    pub(crate) fn from_environment() -> Result<Self> {
        let all = std::env::args_os().skip(1).map(|argument| {
            argument
                .into_string()
                .map_err(|argument| Error::usage(format!("{argument:?} is not valid UTF-8")))
        });
        Ok(Self::new(all.collect::<Result<Vec<_>>>()?))
    }

    fn new(mut rest: Vec<String>) -> Self {
        let mut trailing = Vec::new();
        if let Some(at) = rest.iter().position(|argument| argument == "--") {
            trailing = rest.split_off(at).into_iter().skip(1).collect();
        }
        Self { rest: rest.into(), trailing }
    }

    /// Prints `usage` and ends the process if the user asked for help.
    pub(crate) fn help(&mut self, usage: &str) {
        if self.flag("--help") || self.flag("-h") {
            terminal::line(usage);
            std::process::exit(0);
        }
    }

    /// Takes the first argument that is no option, if it comes first.
    pub(crate) fn positional(&mut self) -> Option<String> {
        self.rest.pop_front_if(|argument| !argument.starts_with('-'))
    }

    /// Takes `name`; whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.rest.len();
        self.rest.retain(|argument| argument != name);
        self.rest.len() < before
    }

    /// Takes `name VALUE` or `name=VALUE`; `expected` says what a value is.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>> {
        let prefix = format!("{name}=");
        let Some(at) = self.rest.iter().position(|one| one == name || one.starts_with(&prefix)) else {
            return Ok(None);
        };
        let option = self.rest.remove(at).unwrap_or_default();
        let text = match option.strip_prefix(&prefix) {
            Some(text) => text.to_owned(),
            None => {
                self.rest.remove(at).ok_or_else(|| Error::usage(format!("`{name}` expects {expected}")))?
            }
        };
        let value =
            text.parse().map_err(|_| Error::usage(format!("`{name}` expects {expected}, found `{text}`")))?;
        Ok(Some(value))
    }

    /// Takes what stood after `--`.
    pub(crate) fn trailing(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trailing)
    }

    /// Refuses what is left.
    pub(crate) fn finish(self) -> Result<()> {
        match self.rest.front().or(self.trailing.first()) {
            None => Ok(()),
            Some(unknown) => {
                Err(Error::usage(format!("`{unknown}` is not expected here: see `cargo xtask --help`")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Arguments {
        Arguments::new(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn takes_flags_values_and_what_follows_two_dashes() {
        let mut given = arguments("demo --full --port 8080 --rows=5 -- --nocapture --full");
        assert_eq!(given.positional().as_deref(), Some("demo"));
        assert!(given.flag("--full") && !given.flag("--full"));
        assert_eq!(given.value("--port", "a port").unwrap(), Some(8080_u16));
        assert_eq!(given.value("--rows", "rows").unwrap(), Some(5_u32));
        assert_eq!(given.value::<u32>("--rows", "rows").unwrap(), None);
        assert_eq!(given.trailing(), ["--nocapture", "--full"]);
        given.finish().unwrap();
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for (given, found) in [("--ful", "--ful"), ("extra", "extra"), ("-- x", "x")] {
            let error = arguments(given).finish().unwrap_err().to_string();
            assert_eq!(error, format!("`{found}` is not expected here: see `cargo xtask --help`"));
        }
    }

    #[test]
    fn says_what_a_value_is() {
        for (given, found) in [("--port", ""), ("--port 70000", ", found `70000`"), ("--port=", ", found ``")]
        {
            let error = arguments(given).value::<u16>("--port", "a number up to 65535").unwrap_err();
            assert_eq!(error.to_string(), format!("`--port` expects a number up to 65535{found}"));
        }
    }
}
