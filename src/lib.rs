//! Pulsehook: webhooks for web analytics.
//!
//! `ARCHITECTURE.md` has the map. The flow goes one way: [`http`] takes hits in, [`analytics`] keeps them, the
//! evaluator in [`engine`] notices and records events through [`store`], the dispatcher in [`engine`] sends them.

#![forbid(unsafe_code)]

/// Most memory is asked for shortly after as much of it was given back, and jemalloc hands out just that, which is still at hand.
/// Here and not in `main.rs`, so that whatever measures uses the same.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub mod analytics;
pub mod app;
pub mod chance;
mod checkpoints;
pub mod cli;
pub mod clock;
pub mod config;
pub mod directory;
pub mod domain;
pub mod engine;
pub mod failpoint;
pub mod http;
pub mod store;
pub mod telemetry;
pub mod wake;
