//! MongoDB as it is deployed: a replica set of three.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mongodb::Client;
use mongodb::bson::doc;
use mongodb::options::ClientOptions;
use tokio::time::{Instant, sleep};

use crate::child::POLL;
use crate::mongo::{Mongo, MongoOptions};

const START: Duration = Duration::from_secs(60);

/// A running set of three members.
#[derive(Debug)]
pub struct MongoSet {
    members: Vec<Mongo>,
}

impl MongoSet {
    /// Starts one, and waits until it has a primary.
    ///
    /// # Errors
    /// A member can't be started, or none becomes primary.
    pub async fn start() -> Result<Self> {
        let members: Vec<_> = (0..3).map(|_| Mongo::prepare(MongoOptions::default())).collect::<Result<_>>()?;
        for member in &members {
            member.start_as_member().await?;
        }
        let hosts = members.iter().enumerate();
        let hosts: Vec<_> = hosts
            .map(|(id, member)| doc! { "_id": id as i32, "host": format!("127.0.0.1:{}", member.port()) })
            .collect();
        // Elections of ten seconds, the default, are long for a test.
        let set = doc! { "_id": "rs0", "members": hosts, "settings": { "electionTimeoutMillis": 2000 } };
        let client = Client::with_uri_str(members[0].url()).await?;
        client
            .database("admin")
            .run_command(doc! { "replSetInitiate": set })
            .await
            .context("can't initiate the replica set")?;
        let set = Self { members };
        set.primary().await?;
        Ok(set)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port())).collect();
        format!("mongodb://{}/?replicaSet=rs0", hosts.join(","))
    }

    /// Its members.
    pub fn members(&self) -> &[Mongo] {
        &self.members
    }

    /// The member that is primary, once there is one.
    ///
    /// # Errors
    /// None becomes so.
    pub async fn primary(&self) -> Result<&Mongo> {
        let deadline = Instant::now() + START;
        loop {
            for member in self.members.iter().filter(|member| member.is_running()) {
                let mut options = ClientOptions::parse(member.url()).await?;
                options.server_selection_timeout = Some(Duration::from_secs(1));
                let admin = Client::with_options(options)?.database("admin");
                let hello = admin.run_command(doc! { "hello": 1 }).await.unwrap_or_default();
                if hello.get_bool("isWritablePrimary").unwrap_or(false) {
                    return Ok(member);
                }
            }
            ensure!(Instant::now() < deadline, "no member is primary after {START:?}");
            sleep(POLL).await;
        }
    }

    /// Makes the primary step down, and waits until another member is primary.
    ///
    /// # Errors
    /// There is no primary before, or none after.
    pub async fn step_down(&self) -> Result<()> {
        let before = self.primary().await?;
        let admin = Client::with_uri_str(before.url()).await?.database("admin");
        // It may close the connection instead of answering; the loop below checks the effect.
        let _ = admin.run_command(doc! { "replSetStepDown": 20, "force": true }).await;
        let deadline = Instant::now() + START;
        while self.primary().await?.port() == before.port() {
            ensure!(Instant::now() < deadline, "the primary stays after {START:?}");
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Starts the members that have ended again.
    ///
    /// # Errors
    /// One can't be started.
    pub async fn start_again(&self) -> Result<()> {
        for member in &self.members {
            if !member.is_running() {
                member.start_as_member().await?;
            }
        }
        self.primary().await.map(drop)
    }
}
