//! The `pulsehook` binary.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    pulsehook::cli::main().await
}
