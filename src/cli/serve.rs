//! `serve` and `migrate`.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{Flags, output};
use crate::app::{self, App};
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::DirectoryPlace;
use crate::directory::token_hash;
use crate::store::facts::SETUP_TOKEN;
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub struct Serve {
    #[command(flatten)]
    flags: Flags,
}

impl Serve {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.flags.config()?;
        telemetry::start_logs(config.log_format, &config.log_level);
        // Listened to from here on: whoever starts us may change their mind at any time.
        let stop = stop_signal()?;
        let chance = Chance::from_system();
        let app = App::build(config, Clock::system(), chance.clone()).await?;
        info!("Pulsehook {} listens on {}", env!("CARGO_PKG_VERSION"), app.config.base_url);
        // Beside Plausible people have accounts and credentials already.
        if app.config.directory == DirectoryPlace::Own && !app.store.operator_is_set_up().await? {
            let token = URL_SAFE_NO_PAD.encode(chance.bytes::<24>());
            app.store.set_fact(SETUP_TOKEN, &hex::encode(token_hash(&token))).await?;
            output::say(&format!(
                "Set up this server (the link works once): {}/setup?token={token}",
                app.config.base_url
            ));
        }
        app.run(stop).await
    }
}

/// Ends with the first interrupt or termination; the second ends the process at once.
///
/// # Errors
/// The signals cannot be listened to.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be listened to")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be listened to")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(1);
        });
    })
}

#[derive(Debug, clap::Args)]
pub struct Migrate {
    #[command(flatten)]
    pub flags: Flags,
}

impl Migrate {
    pub async fn run(self) -> anyhow::Result<()> {
        let config = self.flags.config()?;
        app::prepare_data_dir(&config.data_dir)?;
        let store = app::open_store(&config).await?;
        store.close().await;
        app::make_tables(&config).await?;
        output::say("The database is up to date.");
        Ok(())
    }
}
