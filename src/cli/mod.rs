//! The command line. `serve` and `demo` run the service, a few commands work on the machine's own databases, and all the
//! others are clients of the API like anybody else's.
//!
//! Results go to standard output, progress and logs to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, Command, CommandFactory as _, FromArgMatches, Parser, Subcommand};

use crate::config::{Config, SETTINGS, Setting, Sources};

mod backtest;
mod backup;
mod bench;
mod client;
mod demo;
mod doctor;
mod export;
mod import;
mod import_config;
mod keys;
mod listen;
mod output;
mod people;
pub mod receive;
mod resources;
mod rotate_key;
mod serve;

#[derive(Parser)]
#[command(
    name = "pulsehook",
    version,
    about = "Webhooks for web analytics: notices the moment and delivers it, signed, retried and recorded",
    after_help = "Start with `pulsehook demo`, or `pulsehook serve` and the link it prints."
)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Run the service: API, ingestion, evaluator and dispatcher in one process
    Serve(serve::Serve),
    /// Show it at work on a throw-away folder: real traffic, a surge, verified deliveries
    Demo(demo::Demo),
    /// Forward a site's events to a server on this machine while you build it
    Listen(listen::Listen),
    /// Receive webhooks, verify them and print what arrives
    Receive(receive::Receive),
    /// Bring data in
    #[command(subcommand)]
    Import(import::Import),
    /// Write sites, goals, webhooks and triggers into a file
    Export(export::Export),
    /// Sites
    #[command(subcommand)]
    Sites(resources::sites::Sites),
    /// Goals of a site
    #[command(subcommand)]
    Goals(resources::goals::Goals),
    /// Webhooks of a site
    #[command(subcommand)]
    Webhooks(resources::webhooks::Webhooks),
    /// Triggers of a webhook
    #[command(subcommand)]
    Triggers(resources::triggers::Triggers),
    Backtest(Box<backtest::BacktestCommand>),
    /// Deliveries of a webhook
    #[command(subcommand)]
    Deliveries(resources::deliveries::Deliveries),
    /// Ranges of deliveries that are sent once more
    #[command(subcommand)]
    Resends(resources::resends::Resends),
    /// API keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// People of the account
    #[command(subcommand)]
    Members(resources::members::Members),
    /// Accounts of this server, for whoever runs it
    #[command(subcommand)]
    Accounts(people::Accounts),
    /// People who can sign in, for whoever runs this server
    #[command(subcommand)]
    Users(people::Users),
    /// Measure what it can do on this machine, each figure beside its ceiling and its target
    Bench(bench::Bench),
    /// Bring the database up to date (`serve` does it by itself)
    Migrate(serve::Migrate),
    /// Copy the databases of this machine while the server runs
    Backup(backup::Backup),
    /// Encrypt what is kept secret with the newest master key, while the server runs
    RotateKey(rotate_key::RotateKey),
    /// Print a script that completes commands in a shell
    Completions(Completions),
    /// Check a set-up: settings, databases, schema, clocks, permissions, freshness of the traffic
    Doctor(doctor::Doctor),
}

/// Runs the command of this process and answers its exit code.
pub async fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Action::Serve(command) => command.run().await,
        Action::Demo(command) => command.run().await,
        Action::Receive(command) => command.run().await,
        Action::Listen(command) => command.run().await,
        Action::Import(command) => command.run().await,
        Action::Export(command) => command.run().await,
        Action::Sites(command) => command.run().await,
        Action::Goals(command) => command.run().await,
        Action::Webhooks(command) => command.run().await,
        Action::Triggers(command) => command.run().await,
        Action::Backtest(command) => command.run().await,
        Action::Deliveries(command) => command.run().await,
        Action::Resends(command) => command.run().await,
        Action::Keys(command) => command.run().await,
        Action::Members(command) => command.run().await,
        Action::Accounts(command) => command.run().await,
        Action::Users(command) => command.run().await,
        Action::Bench(command) => command.run().await,
        Action::Migrate(command) => command.run().await,
        Action::Backup(command) => command.run().await,
        Action::RotateKey(command) => command.run().await,
        Action::Completions(command) => command.run(),
        Action::Doctor(command) => command.run().await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            if error.is::<WrongUsage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// What was asked for makes no sense here, whatever is tried: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

#[derive(clap::Args)]
struct Completions {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

impl Completions {
    fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "pulsehook", &mut script);
        output::raw(&script);
        Ok(())
    }
}

/// The settings as flags of a command that works on the machine.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    values: BTreeMap<String, String>,
    file: Option<PathBuf>,
}

impl Flags {
    /// Flags, environment and file together.
    ///
    /// # Errors
    /// One sentence about the first setting that is wrong.
    pub fn config(&self) -> anyhow::Result<Config> {
        Ok(Config::from_sources(&Sources::collect(self.values.clone(), self.file.as_deref())?)?)
    }
}

fn id_of(setting: &Setting) -> String {
    format!("setting {}", setting.name)
}

impl Args for Flags {
    fn augment_args(mut command: Command) -> Command {
        for setting in SETTINGS {
            // What a command means by a flag of its own comes first: the role of a key is not that of a process.
            if command.get_arguments().any(|argument| argument.get_long() == Some(setting.name)) {
                continue;
            }
            let mut help = format!("{} [env: PULSEHOOK_{}]", setting.help, setting.name.to_uppercase());
            if !setting.default.is_empty() {
                help.push_str(&format!(" [default: {}]", setting.default));
            }
            let argument = clap::Arg::new(id_of(setting))
                .long(setting.name.replace('_', "-"))
                .value_name("VALUE")
                .help_heading("Settings")
                .help(help);
            command = command.arg(argument);
        }
        let file = clap::Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help_heading("Settings")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Settings as a TOML file [default: pulsehook.toml, if it is there]");
        command.arg(file)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS {
            if let Ok(Some(value)) = matches.try_get_one::<String>(&id_of(setting)) {
                self.values.insert(setting.name.to_owned(), value.clone());
            }
        }
        self.file = matches.get_one::<PathBuf>("config").cloned();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_flags() {
        let cli = Cli::try_parse_from(["pulsehook", "migrate", "--database-url", "sqlite:///tmp/x.db"]).unwrap();
        let Action::Migrate(migrate) = cli.command else { panic!() };
        assert_eq!(migrate.flags.values["database_url"], "sqlite:///tmp/x.db");
    }
}
