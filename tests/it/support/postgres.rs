//! Private PostgreSQL clusters: one that the whole test process shares, started with the first test that needs it, and
//! others that a test owns and may crash. Each is gone with the process, however that ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{Connection as _, PgConnection};

/// Started when first looked at.
static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::shared);
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// A running cluster. Dropped, it is stopped and removed.
pub struct Cluster {
    folder: PathBuf,
    /// `None`: it listens on a socket in its folder only.
    port: Option<u16>,
    guardian: Guardian,
}

/// A shell that starts the server and restarts it for every line it reads. Its input closes when this process is gone;
/// then it stops the server and removes the folder. One shell does all of it, so that nothing can come between.
struct Guardian {
    shell: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// The address of a fresh, empty database in the shared cluster.
pub async fn database() -> String {
    // The first look starts processes and waits for them.
    let cluster = tokio::task::spawn_blocking(|| &*SHARED).await.expect("the cluster starts");
    cluster.database().await
}

impl Cluster {
    /// Nobody restarts it, so it need not wait for the disk.
    fn shared() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("it has one").port();
        let options = format!("-p {port} -c listen_addresses=127.0.0.1 -c max_connections=400 -c fsync=off");
        Self::start(Some(port), &options)
    }

    /// One of its own for a test that restarts it: what it has committed survives a crash. It listens on
    /// [`Cluster::socket`] only, so that no port can be lost to somebody else meanwhile. Starting blocks.
    pub fn of_its_own() -> Self {
        Self::start(None, "-c listen_addresses= -c fsync=on -c max_connections=150")
    }

    fn start(port: Option<u16>, options: &str) -> Self {
        let folder =
            tempfile::Builder::new().prefix("pulsehook-postgres-").tempdir().expect("a temporary folder").keep();
        let as_owner = if is_root() { "setpriv --reuid=postgres --regid=postgres --init-groups" } else { "" };
        if is_root() {
            let status = Command::new("chown").arg("postgres").arg(&folder).status().expect("chown can be run");
            assert!(status.success(), "{} cannot be given to postgres", folder.display());
        }
        let script = format!(
            "control() {{ {as_owner} {bin}/pg_ctl -D {folder}/data -w -t 60 \"$@\" </dev/null >/dev/null 2>&1; }}
             {as_owner} {bin}/initdb -D {folder}/data -U postgres -A trust -E UTF8 --no-locale --no-sync >/dev/null &&
             control -l {folder}/log -o '-c shared_buffers=64MB {options} -c unix_socket_directories={folder} \
                 -c log_min_messages=fatal' start &&
             echo started &&
             while read -r _; do control -l {folder}/log -m immediate restart && echo restarted || echo failed; done
             control -m immediate stop
             rm -rf {folder}",
            bin = binaries().display(),
            folder = folder.display(),
        );
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(script)
            // An interrupt at the terminal is for the test process; the guardian cleans up after it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell can be started");
        let orders = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().expect("its output is ours"));
        let mut guardian = Guardian { shell, orders, answers };
        guardian.expect("started");
        Self { folder, port, guardian }
    }

    /// Where it listens whatever happens to its server.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// Crashes the server and starts it again; returns once it answers. Blocks.
    pub fn restart_immediately(&mut self) {
        let orders = self.guardian.orders.as_mut().expect("it is open until the cluster is dropped");
        writeln!(orders, "restart").expect("the guardian lives");
        self.guardian.expect("restarted");
    }

    /// The address of a fresh, empty database.
    pub async fn database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.expect("the cluster answers");
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .expect("a database can be made");
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        match self.port {
            Some(port) => format!("postgres://postgres@127.0.0.1:{port}/{database}"),
            None => format!("postgres://postgres@localhost/{database}?host={}", self.folder.display()),
        }
    }
}

impl Guardian {
    fn expect(&mut self, answer: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the guardian can be heard");
        assert_eq!(line.trim(), answer, "PostgreSQL did not start");
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.orders.take();
        // It has nothing left to do but to clean up.
        let _ = self.shell.wait();
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id can be run");
    output.stdout.starts_with(b"0")
}

/// Where the server's programs are.
fn binaries() -> PathBuf {
    let packaged =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    packaged
        .chain(on_path)
        .find(|folder: &PathBuf| {
            ["initdb", "postgres", "pg_ctl"].iter().all(|name| Path::new(folder).join(name).exists())
        })
        .expect("PostgreSQL's server programs are missing: run `make test` once, which installs them")
}
