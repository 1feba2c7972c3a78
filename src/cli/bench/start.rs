//! How long it takes to be of use, and how little it needs while it waits.

use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;

use super::World;
use super::home::Home;
use super::report::{Figure, Kind, Target};
use super::served::Launch;

const BYTES_PER_MIB: f64 = 1_048_576.0;

/// Time to ready, memory while idle, size of the binary
#[derive(Debug, clap::Args)]
pub struct Start {
    /// Starts within a run
    #[arg(long, default_value_t = 5, value_parser = super::at_least_one())]
    count: usize,
}

impl Start {
    pub async fn run(&self, world: &World) -> anyhow::Result<()> {
        for kind in world.databases() {
            let about = "from the start of the process to /health/ready; beside it one that only says its version";
            let mut figure = Figure::new("start", Some(kind), about);
            for _ in world.runs("start", Some(kind)) {
                let home = Home::new(world, kind).await?;
                for _ in 0..self.count {
                    let began = world.clock.monotonic();
                    let served = home.serve(world, &Launch::default()).await?;
                    figure.add("ready_ms", (world.clock.monotonic() - began).as_secs_f64() * 1e3);
                    figure.add("version_ms", world.timed(say_version(world)).await? * 1e3);
                    figure.add("idle_mib", served.resident_mib()?);
                    served.stop().await?;
                }
                home.discard().await?;
            }
            if kind == Kind::Sqlite {
                figure.target("ready_ms", Target::AtMost(300.0));
                figure.target("idle_mib", Target::AtMost(40.0));
            }
            figure.add("binary_mib", std::fs::metadata(&world.executable)?.len() as f64 / BYTES_PER_MIB);
            world.show(&figure);
        }
        Ok(())
    }
}

async fn say_version(world: &World) -> anyhow::Result<()> {
    let mut command = Command::new(&world.executable);
    let status = command.arg("--version").stdout(Stdio::null()).status().await.context("it cannot be started")?;
    anyhow::ensure!(status.success(), "--version ended with {status}");
    Ok(())
}
