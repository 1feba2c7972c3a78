//! The API does what its document says, whatever it is asked: Schemathesis tries it (`tools/conformance.py`).

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::support::process::{Served, key, pulsehook, tools};
use crate::support::{Database, within};

/// Tries for each operation, beside those it derives from the document. `make conformance` makes more.
const EXAMPLES: &str = "5";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "how much was tried is what a long run is for")]
async fn every_answer_is_one_the_document_tells_of() {
    let database = Database::sqlite();
    let key = key(&database).await;
    let mut command = pulsehook(&database);
    command.env("PULSEHOOK_MAX_WEBHOOKS_PER_ACCOUNT", "100000");
    let served = Served::run(command).await;
    let examples = std::env::var("CONFORMANCE_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned());
    let mut conformance = Command::new(tools().join(".venv/bin/python"));
    conformance
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/conformance.py"))
        .args([&served.url, &key, &examples])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(database.folder.path());
    let limit = Duration::from_secs(if examples == EXAMPLES { 180 } else { 3_600 });
    let output = within(limit, conformance.kill_on_drop(true).output()).await.unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    println!("{}", told.trim());
    assert!(served.stop().await.success());
}
