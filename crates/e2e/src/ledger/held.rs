//! The messages that MongoDB holds at the end of a run.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use mongodb::bson::{self, doc};
use mongodb::options::ReadConcern;

/// A stored message, as far as it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `_id`.
    pub id: String,
    /// `tempId`, if there is one.
    pub temp_id: Option<String>,
    /// `chatId`.
    pub chat: String,
    /// `senderId`.
    pub sender: String,
    /// `receiverId`, if there is one.
    pub receiver: Option<String>,
    /// `content`.
    pub content: String,
    /// `timestamp`.
    pub timestamp: i64,
}

impl Document {
    /// Its place in the history of its chat.
    pub fn key(&self) -> (i64, &str) {
        (self.timestamp, &self.id)
    }
}

/// The stored messages: every document of the collection, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held(pub Vec<Document>);

impl Held {
    /// Reads all messages that a majority of the set has.
    ///
    /// # Errors
    /// MongoDB does not answer, or a document is no message.
    pub async fn read(url: &str, database: &str) -> Result<Self> {
        let client = mongodb::Client::with_uri_str(url).await?;
        let collection = client.database(database).collection::<bson::Document>("messages");
        let mut found = collection.find(doc! {}).read_concern(ReadConcern::majority()).await?;
        let mut documents = Vec::new();
        while let Some(document) = found.try_next().await? {
            documents.push(message(&document).with_context(|| format!("not a message: {:?}", document.get("_id")))?);
        }
        Ok(Self(documents))
    }

    /// The ids of each chat's messages in history's order, newest first.
    pub fn chats(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut chats = BTreeMap::<_, Vec<_>>::new();
        for document in &self.0 {
            chats.entry(&*document.chat).or_default().push(document.key());
        }
        chats
            .into_iter()
            .map(|(chat, mut keys)| {
                keys.sort_unstable_by(|one, other| other.cmp(one));
                (chat, keys.into_iter().map(|(_, id)| id).collect())
            })
            .collect()
    }
}

fn message(document: &bson::Document) -> Result<Document> {
    let text = |name: &str| Ok::<_, anyhow::Error>(document.get_str(name)?.to_owned());
    let optional = |name: &str| document.get_str(name).ok().map(str::to_owned);
    Ok(Document {
        id: text("_id")?,
        temp_id: optional("tempId"),
        chat: text("chatId")?,
        sender: text("senderId")?,
        receiver: optional("receiverId"),
        content: optional("content").unwrap_or_default(),
        timestamp: document.get_i64("timestamp")?,
    })
}
