//! Wiring: everything the service needs is a visible field here, built in one place and stopped in one place.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use tokio::net::TcpListener;
use tracing::{info, warn};
use uuid::Uuid;

use crate::analytics::Analytics;
use crate::analytics::clickhouse::{ClickHouse, Mode};
use crate::analytics::recorder::Recorder;
use crate::analytics::sqlite::Embedded;
use crate::chance::Chance;
use crate::clock::Clock;
use crate::config::{AnalyticsPlace, Config, DirectoryPlace};
use crate::directory::Directory;
use crate::directory::plausible::{Plausible, PlausibleError};
use crate::domain::address::AddressPolicy;
use crate::domain::ids::{NodeId, WebhookId};
use crate::domain::time::Timestamp;
use crate::domain::vault::{Keyring, key_of};
use crate::engine::checker::Checker;
use crate::engine::egress::{DialRecorder, EgressConnector, Resolver, own_addresses, trusted_roots};
use crate::engine::ready::Room;
use crate::engine::sender::Sender;
use crate::engine::{Engine, Running};
use crate::http::{Api, Settings};
use crate::store::Store;
use crate::store::facts::MASTER_KEYS;
use crate::store::shards::Node;
use crate::telemetry;

/// Everything, ready to run.
pub struct App {
    pub config: Config,
    pub clock: Clock,
    pub store: Store,
    pub analytics: Analytics,
    pub api: Api,
    listener: TcpListener,
    engine: Running,
    /// Under which it says what master keys it works with.
    keys_fact: String,
    /// Says to other processes that this folder, and the node's name in it, are taken.
    _identity: Identity,
}

/// What a test puts in place of the real thing.
#[derive(Default)]
pub struct Substitutes {
    pub resolver: Option<Resolver>,
    pub dialled: Option<DialRecorder>,
}

impl App {
    /// Opens databases, brings them up to date, takes the shards and starts the engine.
    ///
    /// # Errors
    /// One sentence about what is missing or cannot be reached.
    pub async fn build(config: Config, clock: Clock, chance: Chance) -> anyhow::Result<Self> {
        Self::build_with(config, clock, chance, Substitutes::default()).await
    }

    pub async fn build_with(
        mut config: Config,
        clock: Clock,
        chance: Chance,
        substitutes: Substitutes,
    ) -> anyhow::Result<Self> {
        let metrics = telemetry::start_metrics();
        prepare_data_dir(&config.data_dir)?;
        let identity = Identity::take(&config.data_dir, &chance, clock.now())?;
        let sqlite = config.database_url.starts_with("sqlite:");
        anyhow::ensure!(
            identity.is_ours() || !sqlite,
            "another pulsehook process works in {}; stop it, or give this one its own data_dir",
            config.data_dir.display()
        );
        let store = open_store(&config).await?;
        let in_use = master_keys_in_use(&store).await?;
        let keyring = master_key(&config, &chance, &in_use)?;
        settle_directory(&config, &store).await?;
        let plausible = open_plausible(&config, &clock).await?;
        let analytics = open_analytics(&config, identity.node, &clock, &chance).await?;
        if let Analytics::ClickHouse(clickhouse) = &analytics {
            clickhouse.take_hits(&config.data_dir, config.spill_limit)?;
        }
        let policy = config.address_policy(own_addresses());
        let room = Room { total: room_in_flight(config.in_flight), per_host: config.host_in_flight as usize };
        let connector = connector(&config, &policy, &clock, substitutes)?;
        let sender = Sender::new(connector.clone(), clock.clone(), config.host_in_flight as usize);
        let listener = listen(&mut config).await?;
        let recorder = Recorder::new(analytics.clone(), clock.clone(), chance.clone()).await?;
        let directory = Directory::load(store.clone(), clock.clone(), plausible.clone()).await?;
        // Nothing is to be sealed with a key that somebody who runs does not know.
        let keys_fact = format!("{MASTER_KEYS}{}", identity.node);
        let keys = keyring.ids().collect::<Vec<_>>().join(",");
        store.set_fact(&keys_fact, &format!("{} {keys}", clock.now())).await?;
        // What this node held before it was killed is nobody else's: no need to wait for its leases to run out.
        store.release_shards(identity.node).await?;
        let node = Node { id: identity.node, version: env!("CARGO_PKG_VERSION"), roles: config.roles.to_string() };
        let engine = Engine {
            store: store.clone(),
            analytics: analytics.clone(),
            sender: Arc::new(sender),
            checker: Checker::new(connector, policy.clone(), clock.clone()),
            keyring: keyring.clone(),
            policy: policy.clone(),
            clock: clock.clone(),
            chance: chance.clone(),
            node,
            roles: config.roles,
            limits: config.limits,
            room,
            evaluation_interval: config.evaluation_interval,
            retention: config.retention,
            audit_retention: config.audit_retention,
            plausible,
        }
        .start()
        .await
        .context("the engine cannot start")?;
        let api = Api::new(
            store.clone(),
            analytics.clone(),
            recorder,
            directory,
            engine.wake.clone(),
            policy,
            keyring,
            clock.clone(),
            chance,
            metrics,
            settings(&config),
        );
        Ok(Self { config, clock, store, analytics, api, listener, engine, keys_fact, _identity: identity })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Answers requests until `shutdown`, then lets everything finish what it has begun.
    ///
    /// # Errors
    /// A duty ended by itself: the process must not live on without it.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let (stop_serving, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(crate::http::serve(self.listener, self.api.clone(), async {
            let _ = stopped.await;
        }));
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            error = self.engine.failed() => Err(error),
        };
        info!("Stopping: no new requests, finishing what is under way");
        self.api.stop_being_ready();
        let _ = stop_serving.send(());
        // Keep-alive connections nobody uses must not hold us up.
        tokio::select! {
            _ = serving => {}
            () = self.clock.sleep(std::time::Duration::from_secs(5)) => warn!("Some requests did not end in time"),
        }
        let stopped = self.engine.stop().await;
        if let Err(error) = self.store.forget_fact(&self.keys_fact).await {
            warn!(%error, "That this process ended could not be noted: {error}");
        }
        self.analytics.close().await;
        self.store.close().await;
        outcome.and(stopped)
    }
}

/// Opens the store and brings its schema up to date.
///
/// # Errors
/// The database cannot be reached, or has a newer schema than this version knows.
pub async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let place = Store::place_of(&config.database_url).map_or_else(String::new, |place| format!(" ({place})"));
    let store =
        Store::open(&config.database_url).await.with_context(|| format!("the database cannot be opened{place}"))?;
    store.migrate().await.context("the database cannot be brought up to date")?;
    Ok(store)
}

/// Binds the address, and writes down which port it got where any would do.
async fn listen(config: &mut Config) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is another server there?", config.listen))?;
    let address = listener.local_addr().context("the listener has no address")?;
    if config.listen.port() == 0 {
        config.base_url = config.base_url.replace(&config.listen.to_string(), &address.to_string());
        config.listen = address;
    }
    Ok(listener)
}

/// What of the settings is for those who ask.
fn settings(config: &Config) -> Settings {
    let is_own = config.directory == DirectoryPlace::Own;
    Settings {
        base_url: config.base_url.clone(),
        max_webhooks_per_account: config.max_webhooks_per_account,
        max_sites_per_account: config.max_sites_per_account,
        api_rate: config.api_rate,
        max_connections: room_for_connections(config.max_connections),
        max_connections_per_address: usize::try_from(config.max_connections_per_address).unwrap_or(usize::MAX),
        sign_up: config.sign_up,
        trusted_proxies: config.trusted_proxies.clone(),
        answers_api: config.roles.api,
        // Beside Plausible it is Plausible that takes them.
        takes_hits: config.roles.ingest && is_own,
        mirrors_plausible: !is_own,
    }
}

/// Has the database belong to the directory that is set.
///
/// # Errors
/// It belongs to another one already, whose accounts are in it.
async fn settle_directory(config: &Config, store: &Store) -> anyhow::Result<()> {
    let name = match config.directory {
        DirectoryPlace::Own => "own",
        DirectoryPlace::Plausible { .. } => "plausible",
    };
    anyhow::ensure!(
        store.settle_directory(name).await?,
        "directory is {name}, but this database has the accounts of another directory: set directory back, or give this \
         server a new, empty database (database_url)"
    );
    Ok(())
}

/// The Plausible beside us, if there is to be one. While it is away its sites and goals are what is known of them.
///
/// # Errors
/// One sentence about why it can never be read like this.
async fn open_plausible(config: &Config, clock: &Clock) -> anyhow::Result<Option<Plausible>> {
    let DirectoryPlace::Plausible { database_url, secret_key_base } = &config.directory else { return Ok(None) };
    let plausible = Plausible::new(database_url, secret_key_base.as_deref(), clock.clone())?;
    match plausible.check().await {
        Err(error @ PlausibleError::Unusable(_)) => return Err(error.into()),
        Err(error @ PlausibleError::Away(_)) => warn!("{error}; until it does, its sites and goals are what they were"),
        Ok(()) => {}
    }
    Ok(Some(plausible))
}

/// Opens or connects to where traffic is kept.
///
/// # Errors
/// It cannot be opened or reached, or is not what we can work with.
pub async fn open_analytics(
    config: &Config,
    node: NodeId,
    clock: &Clock,
    chance: &Chance,
) -> anyhow::Result<Analytics> {
    Ok(match &config.analytics {
        AnalyticsPlace::Embedded(path) => {
            let opened = Embedded::open(path).await;
            Analytics::Embedded(opened.with_context(|| format!("{} cannot be opened", path.display()))?)
        }
        AnalyticsPlace::ClickHouse(address) => {
            let mode = match &config.directory {
                DirectoryPlace::Own => Mode::Ours { chance: chance.clone() },
                DirectoryPlace::Plausible { .. } => Mode::Theirs,
            };
            let connected = ClickHouse::connect(address, node, clock.clone(), mode).await;
            Analytics::ClickHouse(connected.with_context(|| format!("the ClickHouse at {address} cannot be used"))?)
        }
    })
}

/// Makes the tables of a ClickHouse of our own. With anything else there is nothing to do: an embedded database is made when
/// it is opened, and Plausible's is Plausible's.
///
/// # Errors
/// It cannot be reached, or has tables that are not ours.
pub async fn make_tables(config: &Config) -> anyhow::Result<()> {
    let (AnalyticsPlace::ClickHouse(address), DirectoryPlace::Own) = (&config.analytics, &config.directory) else {
        return Ok(());
    };
    let unusable = || format!("the ClickHouse at {address} cannot be used");
    ClickHouse::make_tables(address, &Clock::system()).await.with_context(unusable)
}

/// Who this process is among the nodes. The name stays in the data folder, so that a node that was killed comes back as
/// the same; the locked file keeps a second process of the same folder from taking it.
struct Identity {
    node: NodeId,
    file: Option<std::fs::File>,
}

impl Identity {
    fn take(data_dir: &Path, chance: &Chance, now: Timestamp) -> anyhow::Result<Self> {
        use std::io::{Read as _, Seek as _, Write as _};
        let path = data_dir.join("node");
        let unusable = || format!("{} cannot be used", path.display());
        let new = NodeId(chance.uuid_v7(now));
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).with_context(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(Self { node: new, file: None }),
            Err(std::fs::TryLockError::Error(error)) => return Err(error).with_context(unusable),
        }
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(unusable)?;
        if let Ok(id) = text.trim().parse() {
            return Ok(Self { node: NodeId(id), file: Some(file) });
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", new.0))
            .with_context(unusable)?;
        Ok(Self { node: new, file: Some(file) })
    }

    /// Whether the folder is this process's own.
    fn is_ours(&self) -> bool {
        self.file.is_some()
    }
}

/// Makes the folder, for nobody else to read.
///
/// # Errors
/// It cannot be created.
pub fn prepare_data_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("the data folder {} cannot be created", path.display()))
}

/// How many attempts may be under way at once: what was asked for, or as many as there may be files open beside everything
/// else. The limit on those is raised as far as the machine lets us.
fn room_in_flight(asked: Option<u32>) -> usize {
    const USUAL: u64 = 2_048;
    /// Databases, trackers, and connections kept open.
    const OTHERS: u64 = 512;
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1_024);
    let room = asked.map_or(USUAL, u64::from);
    let possible = files.saturating_sub(OTHERS).max(files / 2).max(16);
    if room > possible {
        warn!(
            "Only {possible} attempts can be under way at once: this process may have {files} files open (ulimit -n)"
        );
    }
    usize::try_from(room.min(possible)).unwrap_or(16)
}

/// How many connections may be held at once: what was asked for, or a part of the files there may be open, most of which are
/// for what is sent.
fn room_for_connections(asked: Option<u32>) -> usize {
    const USUAL: u64 = 10_000;
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1_024);
    let possible = (files / 4).max(16);
    if let Some(asked) = asked.map(u64::from).filter(|asked| *asked > possible) {
        warn!(
            "Only {possible} connections can be held at once instead of {asked}: this process may have {files} files open \
             (ulimit -n)"
        );
    }
    usize::try_from(asked.map_or(USUAL, u64::from).min(possible)).unwrap_or(16)
}

/// Name of the file in the data folder that has the master keys, where no setting has them.
pub const MASTER_KEY_FILE: &str = "master.key";

/// The master keys that some of what is kept was sealed with.
async fn master_keys_in_use(store: &Store) -> anyhow::Result<BTreeSet<String>> {
    const SOME: i64 = 100;
    let webhooks = store.operator_sealed_webhooks(WebhookId(Uuid::nil()), SOME).await?;
    let sealed = webhooks.iter().flat_map(|webhook| [&webhook.sealed_url, &webhook.headers, &webhook.secret]);
    Ok(sealed.flatten().filter_map(|sealed| key_of(sealed)).map(str::to_owned).collect())
}

/// The configured key, else the one in the data folder, else a new one there.
///
/// # Errors
/// With it nothing of what is kept could be opened: it got lost, or is another installation's.
fn master_key(config: &Config, chance: &Chance, in_use: &BTreeSet<String>) -> anyhow::Result<Keyring> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = config.data_dir.join(MASTER_KEY_FILE);
    let known = match &config.master_key {
        Some(keyring) => Some(keyring.clone()),
        None if path.exists() => Some(master_key_in(&path)?),
        None => None,
    };
    let is_known = known.as_ref().is_some_and(|keyring| keyring.ids().any(|id| in_use.contains(id)));
    anyhow::ensure!(
        in_use.is_empty() || is_known,
        "what is secret in the database was sealed with master key {}, and there is no such key in {}: put it back",
        in_use.iter().map(String::as_str).collect::<Vec<_>>().join(" or "),
        if config.master_key.is_some() { "master_key".to_owned() } else { path.display().to_string() }
    );
    if let Some(keyring) = known {
        return Ok(keyring);
    }
    let text = base64::engine::general_purpose::STANDARD.encode(chance.bytes::<32>());
    let mut file = match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(file) => file,
        // Another process was faster; its key is the one.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return master_key_in(&path),
        Err(error) => return Err(error).with_context(|| format!("{} cannot be written", path.display())),
    };
    writeln!(file, "{text}")
        .and_then(|()| file.sync_all())
        .with_context(|| format!("{} cannot be written", path.display()))?;
    info!("Made a master key in {}; keep a copy of it apart from the database", path.display());
    Ok(Keyring::parse(&text)?)
}

/// The keys in this file.
///
/// # Errors
/// It cannot be read, or holds something else.
pub fn master_key_in(path: &Path) -> anyhow::Result<Keyring> {
    let read = || -> anyhow::Result<Keyring> { Ok(Keyring::parse(std::fs::read_to_string(path)?.trim())?) };
    read().with_context(|| format!("{} is not a master key", path.display()))
}

/// The one way out, for deliveries and for whoever looks at an address before.
fn connector(
    config: &Config,
    policy: &AddressPolicy,
    clock: &Clock,
    substitutes: Substitutes,
) -> anyhow::Result<EgressConnector> {
    let roots = match &config.egress_ca {
        Some(path) => {
            let pem = std::fs::read(path).with_context(|| format!("egress_ca {} cannot be read", path.display()))?;
            trusted_roots(Some(&pem)).with_context(|| format!("egress_ca {} cannot be used", path.display()))?
        }
        None => trusted_roots(None)?,
    };
    let resolver = match substitutes.resolver {
        Some(resolver) => resolver,
        None => Resolver::system()?,
    };
    if !policy.allow.is_empty() {
        warn!(networks = ?policy.allow, "Webhooks may reach networks that are otherwise forbidden (egress_allow)");
    }
    let connector = EgressConnector::new(policy.clone(), resolver, roots, clock.clone());
    Ok(match substitutes.dialled {
        Some(dialled) => connector.recording(dialled),
        None => connector,
    })
}
