//! Access rules of a Kafka that has an authorizer, changed while clients are connected.

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Kafka;

/// The settings of a Kafka that obeys rules and, without one for a resource, allows everything.
pub const AUTHORIZER: [(&str, &str); 2] = [
    ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    ("allow.everyone.if.no.acl.found", "true"),
];

/// What a rule is about, by Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic = 2,
    /// A consumer group.
    Group = 3,
    /// The cluster, which is called `kafka-cluster`.
    Cluster = 4,
}

/// What may be forbidden, by Kafka's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Reading of a topic, membership of a group.
    Read = 3,
    /// Writing to a topic.
    Write = 4,
    /// A producer id of the cluster.
    IdempotentWrite = 12,
}

const LITERAL: u8 = 3;
const ANY: u8 = 1;
const ALL: u8 = 2;
const DENY: u8 = 2;
const ALLOW: u8 = 3;

impl Kafka {
    /// Forbids everybody one operation; others stay allowed.
    ///
    /// # Errors
    /// It has no authorizer, or does not answer.
    pub async fn deny(&self, resource: Resource, name: &str, operation: Operation) -> Result<()> {
        self.change_rules(30, resource, name, &[(ALL, ALLOW), (operation as u8, DENY)]).await
    }

    /// Takes back all rules of a resource.
    ///
    /// # Errors
    /// As [`Self::deny`].
    pub async fn allow(&self, resource: Resource, name: &str) -> Result<()> {
        self.change_rules(31, resource, name, &[(ANY, ANY)]).await
    }

    /// `CreateAcls` or `DeleteAcls`, version 1, which no client library here speaks. Both lists have one shape.
    async fn change_rules(&self, api: u8, resource: Resource, name: &str, rules: &[(u8, u8)]) -> Result<()> {
        let string = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
        let mut body = vec![0, api, 0, 1, 0, 0, 0, 7, 0xff, 0xff];
        body.extend((rules.len() as u32).to_be_bytes());
        for (operation, permission) in rules {
            body.push(resource as u8);
            body.extend(string(name));
            body.push(LITERAL);
            body.extend([string("User:*"), string("*")].concat());
            body.extend([*operation, *permission]);
        }
        let mut stream = TcpStream::connect(("127.0.0.1", self.port())).await?;
        stream.write_all(&(body.len() as u32).to_be_bytes()).await?;
        stream.write_all(&body).await?;
        let mut answer = vec![0; stream.read_u32().await? as usize];
        stream.read_exact(&mut answer).await?;
        // The request's number, throttling, how many results; then the first one's error.
        ensure!(answer[..4] == [0, 0, 0, 7] && answer[12..14] == [0, 0], "{answer:?}");
        Ok(())
    }
}
