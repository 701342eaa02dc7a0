//! Access rules of a Kafka that has an authorizer.

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Kafka;
use crate::kafka::KafkaOptions;

// Kafka's numbers for the parts of an access rule.
const CREATE_RULES: u8 = 30;
const DELETE_RULES: u8 = 31;
const LITERAL: u8 = 3;
const ANY: u8 = 1;
const ALL: u8 = 2;
const DENY: u8 = 2;
const ALLOW: u8 = 3;

/// What a rule is about. The numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Resource {
    /// A topic; `*` for all.
    Topic = 2,
    /// A group.
    Group = 3,
    /// The cluster, whose name is `kafka-cluster`.
    Cluster = 4,
}

/// What a rule denies. The numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Reading a topic, or being a member of a group.
    Read = 3,
    /// Writing to a topic.
    Write = 4,
    /// Changing a topic's settings.
    AlterConfigs = 11,
    /// Writing idempotently, which is a right over the cluster; the right to write to any topic includes it.
    IdempotentWrite = 12,
}

impl KafkaOptions {
    /// With an authorizer, by which everybody may do everything until there are rules.
    #[must_use]
    pub fn with_authorizer(mut self) -> Self {
        let settings = [
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("allow.everyone.if.no.acl.found", "true"),
        ];
        self.settings.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }
}

impl Kafka {
    /// Lets everybody do everything to a resource but this.
    ///
    /// # Errors
    /// It has no authorizer, or does not answer.
    pub async fn deny(&self, resource: Resource, name: &str, operation: Operation) -> Result<()> {
        self.change_rules(CREATE_RULES, resource, name, &[(ALL, ALLOW), (operation as u8, DENY)]).await
    }

    /// Takes all rules of a resource away.
    ///
    /// # Errors
    /// As [`Self::deny`].
    pub async fn allow(&self, resource: Resource, name: &str) -> Result<()> {
        self.change_rules(DELETE_RULES, resource, name, &[(ANY, ANY)]).await
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
