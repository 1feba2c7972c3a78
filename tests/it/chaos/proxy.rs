//! A proxy between a node and PostgreSQL that reads along, so that it can cut a connection at the worst moment: when a
//! commit is under way and nobody has heard what became of it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::history::{FaultKind, History};

/// The code of a start-up message; other messages without a type come before it.
const START_UP: [u8; 4] = [0, 3, 0, 0];

/// It ends with the test.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    node: usize,
    history: Arc<History>,
    /// The cut that the next commit meets, if any.
    armed: Mutex<Option<FaultKind>>,
}

impl Proxy {
    /// Between node number `node` and the server that listens on `socket`.
    pub async fn start(node: usize, socket: PathBuf, history: Arc<History>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let shared = Arc::new(Shared { node, history, armed: Mutex::default() });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (shared, socket) = (Arc::clone(&accepting), socket.clone());
                tokio::spawn(async move {
                    // A server that is away is a client that is hung up on.
                    if let Ok(server) = UnixStream::connect(socket).await {
                        let _ = shared.carry(client, server).await;
                    }
                });
            }
        });
        Self { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has the next commit of any connection end in a cut of this kind. A cut that still waits is replaced.
    pub fn cut_next_commit(&self, kind: FaultKind) {
        *self.shared.armed.lock().unwrap() = Some(kind);
    }

    pub fn disarm(&self) {
        *self.shared.armed.lock().unwrap() = None;
    }
}

impl Shared {
    /// Passes everything on until either side hangs up, or a commit meets a cut. Both connections end with this.
    async fn carry(&self, mut client: TcpStream, mut server: UnixStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let mut frontend = Frontend::default();
        let mut session = Session::default();
        let (mut asked, mut answered) = (vec![0; 16_384], vec![0; 16_384]);
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    frontend.extend(&asked[..read]);
                    while let Some(message) = frontend.next() {
                        let cut = session.commits_with(&message).then(|| self.armed.lock().unwrap().take()).flatten();
                        let fault = cut.map(|kind| self.history.begin(kind, Some(self.node)));
                        if cut == Some(FaultKind::CutBeforeCommit) {
                            self.history.end(fault.expect("it has begun"));
                            return Ok(());
                        }
                        server.write_all(&message).await?;
                        if let Some(fault) = fault {
                            // Once the server answers, it has happened; the answer goes nowhere.
                            let _ = server.read(&mut answered).await;
                            self.history.end(fault);
                            return Ok(());
                        }
                    }
                }
                read = server.read(&mut answered) => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    client.write_all(&answered[..read]).await?;
                }
            }
        }
    }
}

/// What a client has said so far that tells whether something is committed.
#[derive(Default)]
struct Session {
    in_transaction: bool,
    /// Names of the prepared statements that change something.
    writers: HashSet<Vec<u8>>,
    /// One of them has been run since the last synchronisation.
    has_written: bool,
}

impl Session {
    /// Whether this message has something committed: COMMIT does, which sqlx sends as a simple query like BEGIN, and so does
    /// the end of a statement outside a transaction.
    fn commits_with(&mut self, message: &[u8]) -> bool {
        let (Some(kind), Some(body)) = (message.first(), message.get(5..)) else { return false };
        let mut texts = body.split(|byte| *byte == 0);
        let mut text = || texts.next().unwrap_or_default();
        match kind {
            b'Q' => {
                let text = text().trim_ascii();
                let commits = text.starts_with(b"COMMIT");
                self.in_transaction = text.starts_with(b"BEGIN") || self.in_transaction && !commits;
                self.in_transaction &= !text.starts_with(b"ROLLBACK");
                commits
            }
            b'P' => {
                let (name, text) = (text().to_vec(), String::from_utf8_lossy(text()).into_owned());
                if ["INSERT INTO", "DELETE FROM", "SET "].iter().any(|write| text.contains(write)) {
                    self.writers.insert(name);
                } else {
                    self.writers.remove(&name);
                }
                false
            }
            b'B' => {
                let (_portal, name) = (text(), text());
                self.has_written |= self.writers.contains(name);
                false
            }
            b'S' => std::mem::take(&mut self.has_written) && !self.in_transaction,
            _ => false,
        }
    }
}

/// Cuts what a client sends into messages.
#[derive(Default)]
struct Frontend {
    buffered: Vec<u8>,
    /// Messages have a type from the start-up message on.
    started: bool,
}

impl Frontend {
    fn extend(&mut self, bytes: &[u8]) {
        self.buffered.extend_from_slice(bytes);
    }

    /// The next whole message.
    fn next(&mut self) -> Option<Vec<u8>> {
        let head = usize::from(self.started);
        let length: [u8; 4] = self.buffered.get(head..head + 4)?.try_into().ok()?;
        let end = head + usize::try_from(u32::from_be_bytes(length)).ok()?.max(4);
        if self.buffered.len() < end {
            return None;
        }
        let message: Vec<_> = self.buffered.drain(..end).collect();
        self.started |= message.get(4..8) == Some(&START_UP);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(kind: u8, text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len() + 5).unwrap().to_be_bytes();
        [&[kind][..], &length, text.as_bytes(), &[0]].concat()
    }

    #[test]
    fn messages_are_found_however_they_come_in() {
        let ask_for_tls = [0, 0, 0, 8, 4, 210, 22, 47].to_vec();
        let start_up = [&[0, 0, 0, 15, 0, 3, 0, 0][..], b"user\0a\0"].concat();
        let sent = [ask_for_tls, start_up, typed(b'Q', "BEGIN"), typed(b'P', "COMMIT"), typed(b'Q', "COMMIT")];
        for step in [1, 7, 1_000] {
            let mut frontend = Frontend::default();
            let mut found = Vec::new();
            for bytes in sent.concat().chunks(step) {
                frontend.extend(bytes);
                found.extend(std::iter::from_fn(|| frontend.next()));
            }
            assert_eq!(found, sent);
            let mut session = Session::default();
            let commits: Vec<_> = found.iter().map(|message| session.commits_with(message)).collect();
            assert_eq!(commits, [false, false, false, false, true]);
        }
    }

    #[test]
    fn a_commit_is_a_statement_of_its_own_or_the_end_of_one_that_writes() {
        let mut session = Session::default();
        let mut commits = |kind, texts: &str| session.commits_with(&typed(kind, texts));
        assert!(!commits(b'P', "read\0SELECT 1 FROM queue FOR UPDATE"));
        assert!(!commits(b'P', "write\0DELETE FROM queue"));
        assert!(!commits(b'S', ""), "nothing was run");
        assert!(!commits(b'B', "\0read") && !commits(b'S', ""));
        assert!(!commits(b'B', "\0write") && commits(b'S', ""));
        assert!(!commits(b'S', ""), "that was another one");
        assert!(!commits(b'Q', "BEGIN") && !commits(b'B', "\0write") && !commits(b'S', ""));
        assert!(commits(b'Q', "COMMIT"));
        assert!(!commits(b'Q', "BEGIN") && !commits(b'Q', "ROLLBACK"));
        assert!(!commits(b'B', "\0write") && commits(b'S', ""));
    }
}
