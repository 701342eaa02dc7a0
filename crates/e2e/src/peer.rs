//! The official Socket.IO client in a process of its own.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// A chat peer; see `js/peer.mjs` for its options.
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
}

/// What a peer says at its end.
pub struct Report(pub Value);

impl Peer {
    /// Starts a peer and waits until it is connected; one that was given `--wait` sends nothing before [`Peer::go`].
    pub async fn start<S: AsRef<str>>(arguments: &[S]) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("js/peer.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .args(arguments.iter().map(AsRef::as_ref))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("node")?;
        let stdin = child.stdin.take().context("stdin")?;
        let mut events = BufReader::new(child.stderr.take().context("stderr")?).lines();
        let mut first = String::new();
        while !first.contains("connected") {
            first = events.next_line().await?.context("the peer ended before it was connected")?;
        }
        // Read on, or the peer would wait for somebody to do so.
        tokio::spawn(async move { while let Ok(Some(_)) = events.next_line().await {} });
        Ok(Self { child, stdin })
    }

    /// Lets it send.
    pub async fn go(&mut self) -> Result<()> {
        Ok(self.stdin.write_all(b"go\n").await?)
    }

    /// Waits for its end and its report. A peer that was not done in time is an error.
    pub async fn report(mut self) -> Result<Report> {
        let mut text = String::new();
        self.child.stdout.take().context("stdout")?.read_to_string(&mut text).await?;
        let status = self.child.wait().await?;
        let report: Value = serde_json::from_str(&text).with_context(|| format!("{status}: {text}"))?;
        if !status.success() {
            let short = |name: &str| report[name].as_array().map_or(0, Vec::len);
            bail!(
                "a peer did not finish ({status}): {} acknowledged, {} received, unanswered {}, rejected {}, refusals {}, timeouts {}",
                short("acks"),
                short("received"),
                report["unanswered"],
                report["rejected"],
                report["refusals"],
                report["timeouts"],
            );
        }
        Ok(Report(report))
    }
}

impl Report {
    /// The messages that were acknowledged, by id.
    pub fn acknowledged(&self) -> HashMap<&str, &Value> {
        by_id(&self.0["acks"])
    }

    /// How many acknowledgements each way to durability gave.
    pub fn durability(&self) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        for ack in self.0["acks"].as_array().into_iter().flatten() {
            *counts.entry(ack["durability"].as_str().unwrap_or_default()).or_default() += 1;
        }
        counts
    }

    /// Messages of others that came, and that none came more than once.
    pub fn received_once(&self, from: &str) -> Result<HashSet<&str>> {
        let mut ids = HashSet::new();
        for message in self.0["received"].as_array().into_iter().flatten() {
            if message["senderId"] == from {
                ensure!(message["copies"] == 1, "received more than once: {message}");
                ids.insert(message["messageId"].as_str().unwrap_or_default());
            }
        }
        Ok(ids)
    }

    /// The ids of the pages of a peer in history mode, newest first.
    pub fn history(&self) -> Vec<&str> {
        self.0["messageIds"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

fn by_id(list: &Value) -> HashMap<&str, &Value> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|item| Some((item["messageId"].as_str()?, item))).collect()
}
