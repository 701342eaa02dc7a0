//! What the servers themselves, and gateways as clients see them, say of the system.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_socketio_client::Client;
use holdfast_testkit::{Redis, connect_redis};
use tokio::time::{Instant, sleep};

use super::rig::{ASK, GATEWAYS, Rig};
use crate::ledger::{Reading, newest_page, whole_history};
use crate::load::Chat;

/// Messages of a page that each recent list must answer alone in the end, and of one that need only be right.
const SHORT_PAGE: usize = 10;
const PAGE: usize = 50;

impl Rig {
    /// Entries that wait in the failed queue's index, by the server itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn failed_chats(&self) -> Result<usize> {
        let key = format!("{}:failed:index", self.stack.key_prefix);
        self.ask(&self.queue, redis::cmd("ZCARD").arg(key)).await
    }

    /// One command for a Redis, past every line.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn ask<T: redis::FromRedisValue>(&self, redis: &Redis, command: &redis::Cmd) -> Result<T> {
        let ask = async {
            let mut connection = connect_redis(&redis.url()).await?;
            anyhow::Ok(command.query_async(&mut connection).await?)
        };
        tokio::time::timeout(ASK, ask).await.context("redis does not answer")?
    }

    /// The end of each partition, by the broker.
    async fn ends(&self) -> Result<BTreeMap<i32, i64>> {
        let ends = self.admin.watermarks(&self.stack.topic).await?;
        Ok(ends.into_iter().map(|(partition, _, end)| (partition, end)).collect())
    }

    /// Records that are not committed below these ends.
    async fn uncommitted(&self, ends: &BTreeMap<i32, i64>) -> Result<i64> {
        let group = format!("{}-workers", self.stack.key_prefix);
        let committed = self.admin.committed(&group, &self.stack.topic).await?;
        let committed: BTreeMap<_, _> = committed.into_iter().collect();
        let left = |(partition, end): (&i32, &i64)| {
            (end - committed.get(partition).copied().flatten().unwrap_or_default()).max(0)
        };
        Ok(ends.iter().map(left).sum())
    }

    /// Records in the dead-letter topic, by the broker.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn dead_letters(&self) -> Result<i64> {
        let ends = self.admin.watermarks(&self.stack.dlq_topic).await?;
        Ok(ends.into_iter().map(|(_, low, end)| end - low).sum())
    }

    /// Records that wait for a worker, by the broker.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn lag(&self) -> Result<i64> {
        self.uncommitted(&self.ends().await?).await
    }

    /// Waits until the failed queue is empty and what was in the topic then is committed, under load; returns when that was.
    ///
    /// # Errors
    /// Not within `limit`.
    pub async fn caught_up(&self, limit: Duration) -> Result<Instant> {
        let until = Instant::now() + limit;
        let mut ends = None;
        loop {
            let left = match &ends {
                None if self.failed_chats().await? == 0 => {
                    ends = Some(self.ends().await?);
                    continue;
                }
                None => format!("{} chats wait in the failed queue", self.failed_chats().await?),
                Some(ends) => match self.uncommitted(ends).await? {
                    0 => return Ok(Instant::now()),
                    left => format!("{left} records are not committed"),
                },
            };
            if Instant::now() > until {
                bail!("never drained: after {limit:?} {left}");
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until nothing waits anywhere, without load.
    ///
    /// # Errors
    /// Not within `limit`.
    pub async fn drained(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            self.caught_up(left).await?;
            // A replay adds to the topic.
            if self.failed_chats().await? == 0 && self.lag().await? == 0 {
                return Ok(());
            }
        }
    }

    /// Each chat's whole history, as one of its users reads it.
    ///
    /// # Errors
    /// A gateway does not answer, or answers incompletely.
    pub async fn histories(&self, chats: &[Chat]) -> Result<Vec<Reading>> {
        let readers = self.readers(chats).await?;
        let mut all = Vec::new();
        for (number, chat) in chats.iter().enumerate() {
            let reader = &readers[&(&*chat.member, number % GATEWAYS)];
            all.push(whole_history(reader, &chat.id).await?);
        }
        Ok(all)
    }

    /// Each chat's newest page by every gateway, again and again for so long, and until each recent list has answered a short one alone:
    /// verified or not, all of them must be right. A long page may still reach down to the tombstones of what was refused.
    ///
    /// # Errors
    /// As [`Rig::histories`], or the recent list of a chat does not answer alone within `limit`.
    pub async fn newest_pages(&self, chats: &[Chat], length: Duration, limit: Duration) -> Result<Vec<Reading>> {
        let readers = self.readers(chats).await?;
        let (mut all, mut alone, began) = (Vec::new(), BTreeSet::new(), Instant::now());
        loop {
            for chat in chats {
                for gateway in 0..GATEWAYS {
                    let reader = &readers[&(&*chat.member, gateway)];
                    for limit in [PAGE, SHORT_PAGE] {
                        let (reading, _) = newest_page(reader, &chat.id, limit).await?;
                        if reading.cached && limit == SHORT_PAGE {
                            alone.insert(&chat.id);
                        }
                        all.push(reading);
                    }
                }
            }
            match chats.iter().find(|chat| !alone.contains(&chat.id)) {
                None if began.elapsed() > length => return Ok(all),
                Some(chat) if began.elapsed() > limit => bail!("the recent list of {} never answered alone", chat.id),
                _ => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// A connection to each gateway of each user who reads for these chats.
    async fn readers<'a>(&self, chats: &'a [Chat]) -> Result<HashMap<(&'a str, usize), Client>> {
        let mut readers = HashMap::new();
        for chat in chats {
            for gateway in 0..GATEWAYS {
                if let Entry::Vacant(vacant) = readers.entry((&*chat.member, gateway)) {
                    let url = &self.stack.gateways[gateway].url;
                    vacant.insert(Client::connect(url, &self.stack.token(&chat.member)).await?.0);
                }
            }
        }
        Ok(readers)
    }
}
