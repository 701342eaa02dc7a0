//! Reads stored messages from MongoDB itself.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::options::ReadConcern;
use mongodb::{Client, Collection};

/// A stack's stored messages, asked of the database itself.
pub struct Stored {
    messages: Collection<Document>,
}

impl Stored {
    pub(crate) async fn connect(url: &str, database: &str) -> Result<Self> {
        Ok(Self { messages: Client::with_uri_str(url).await?.database(database).collection("messages") })
    }

    /// All messages of a chat, by `_id`, which a majority has.
    pub async fn of_chat(&self, chat: &str) -> Result<HashMap<String, Document>> {
        let found = self.messages.find(doc! { "chatId": chat }).read_concern(ReadConcern::majority()).await?;
        let found: Vec<_> = found.try_collect().await?;
        let count = found.len();
        let id = |document: Document| Ok((document.get_str("_id")?.to_owned(), document));
        let by_id: HashMap<_, _> = found.into_iter().map(id).collect::<Result<_>>()?;
        ensure!(by_id.len() == count, "a message is stored twice");
        Ok(by_id)
    }

    /// The ids of a chat's messages in history's order, newest first.
    pub async fn history(&self, chat: &str) -> Result<Vec<String>> {
        let found = self.messages.find(doc! { "chatId": chat }).sort(doc! { "timestamp": -1, "_id": -1 }).await?;
        let found: Vec<_> = found.try_collect().await?;
        found.iter().map(|document| Ok(document.get_str("_id")?.to_owned())).collect()
    }

    /// How many messages there are.
    pub async fn count(&self) -> Result<u64> {
        Ok(self.messages.count_documents(doc! {}).await?)
    }
}
