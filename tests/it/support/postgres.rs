//! A private PostgreSQL cluster for this test process: started with the first test that needs it, gone with the process
//! however that ends.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{Connection as _, PgConnection};

/// The cluster's address without a database; started when first looked at.
static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
static DATABASES: AtomicU32 = AtomicU32::new(0);

struct Cluster {
    url: String,
    /// A shell that waits for its standard input to close, which it does when this process is gone, and then stops the
    /// server and removes its folder.
    _guardian: Child,
}

/// The address of a fresh, empty database.
pub async fn database() -> String {
    // The first look starts processes and waits for them.
    let base = tokio::task::spawn_blocking(|| CLUSTER.url.clone()).await.expect("the cluster starts");
    let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
    let mut connection = PgConnection::connect(&format!("{base}/postgres")).await.expect("the cluster answers");
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .expect("a database can be made");
    format!("{base}/{name}")
}

impl Cluster {
    fn start() -> Self {
        let folder =
            tempfile::Builder::new().prefix("pulsehook-postgres-").tempdir().expect("a temporary folder").keep();
        let port = free_port();
        let bin = binaries();
        let as_owner = if is_root() { "exec setpriv --reuid=postgres --regid=postgres --init-groups" } else { "exec" };
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&folder));
        }
        let data = folder.join("data");
        let script = format!(
            "{as_owner} {initdb} -D {data} -U postgres -A trust -E UTF8 --no-locale --no-sync >/dev/null",
            initdb = bin.join("initdb").display(),
            data = data.display(),
        );
        run(Command::new("sh").arg("-c").arg(script));
        let server = format!(
            "{as_owner} {postgres} -D {data} -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} \
             -c max_connections=400 -c log_min_messages=fatal {options}",
            options = std::env::var("PULSEHOOK_CLUSTER").as_deref().unwrap_or("-c fsync=off -c shared_buffers=64MB"),
            postgres = bin.join("postgres").display(),
            data = data.display(),
            folder = folder.display(),
        );
        // `read` ends when the test process does, however it does.
        let guardian = format!(
            "sh -c '{server}' </dev/null >/dev/null 2>&1 & server=$!; echo started; read _; kill -QUIT $server; \
             wait $server; rm -rf {folder}",
            folder = folder.display(),
        );
        let mut guardian = Command::new("sh")
            .arg("-c")
            .arg(guardian)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell can be started");
        let mut line = String::new();
        let stdout = guardian.stdout.take().expect("its output is ours");
        BufReader::new(stdout).read_line(&mut line).expect("the guardian says that it started");
        let ready = format!(
            "until {pg_isready} -q -h 127.0.0.1 -p {port}; do sleep 0.05; done",
            pg_isready = bin.join("pg_isready").display()
        );
        run(Command::new("timeout").arg("60").arg("sh").arg("-c").arg(ready));
        Self { url: format!("postgres://postgres@127.0.0.1:{port}"), _guardian: guardian }
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("the command can be started");
    assert!(status.success(), "{command:?} ended with {status}");
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
            ["initdb", "postgres", "pg_isready"].iter().all(|name| Path::new(folder).join(name).exists())
        })
        .expect("PostgreSQL's server programs are missing: run `make test` once, which installs them")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("it has an address").port()
}
