//! The receiver that the pages show for Rust, as it stands.
#![allow(clippy::disallowed_methods, reason = "it is somebody else's program: it has no clock of ours")]

include!("../src/snippets/verify.rs");
