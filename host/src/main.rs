//! The `host` program; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    host::cli::main()
}
