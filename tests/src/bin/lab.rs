//! `cargo lab`.

use std::process::ExitCode;

fn main() -> ExitCode {
    binder_lab::hidden();
    binder_lab::cli::main()
}
