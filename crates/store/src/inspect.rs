//! What operators ask of the store: every stored copy as it is, and what the server's promise rests on.

use futures_util::TryStreamExt;
use holdfast_message::{Message, MessageId};
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use mongodb::options::ReadConcern;
use tokio::time::Instant;

use crate::bson::Writer;
use crate::history::{MAX_IDS, among};
use crate::insert::number;
use crate::query::batch;
use crate::{Store, StoreError, document, server_limit, time, within};

/// A message's fields that never change, but for its time: which of several copies came first decides that.
const FIELDS: [&str; 7] = ["tempId", "chatId", "senderId", "receiverId", "content", "imageUrl", "publicId"];
/// Where [`Store::try_majority_write`] writes.
const PROBES: &str = "probes";

/// One stored document, as it is.
#[derive(Debug, Clone)]
pub struct StoredCopy {
    /// Its `_id`.
    pub id: MessageId,
    document: RawDocumentBuf,
}

impl StoredCopy {
    /// Its `timestamp`, if it can be read.
    pub fn timestamp(&self) -> Option<i64> {
        time::millis_of(&self.document, "timestamp")
    }

    /// The message that it holds, or the field that makes it none.
    pub fn message(&self) -> Result<Message, &'static str> {
        document::decode(&self.document)
    }

    /// The fields that are not what this message has, its time left aside.
    pub fn differences(&self, message: &Message) -> Result<Vec<&'static str>, StoreError> {
        let mut writer = Writer::new(message.size() + 64);
        document::encode(message, &mut writer);
        let expected = writer.finish()?;
        Ok(FIELDS.into_iter().filter(|&field| value(&self.document, field) != value(&expected, field)).collect())
    }
}

/// The state of the server that answers, as it reports it.
#[derive(Debug, Clone, Default)]
pub struct ServerReport {
    /// The replica set's name; `None`: it is not of one.
    pub set: Option<String>,
    /// The set's members that carry data and may be primary.
    pub members: usize,
    /// It stands before a sharded cluster.
    pub router: bool,
    /// Its clock, in Unix epoch milliseconds.
    pub clock: Option<i64>,
}

/// The indexes of `messages`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexReport {
    /// The primary key is there, and with it the uniqueness of messages.
    pub primary_key: bool,
    /// The index that pages are read by.
    pub pages: bool,
}

impl Store {
    /// Every document with one of these ids that a majority has. A sharded cluster may hold one id more than once.
    pub async fn copies(&self, ids: &[MessageId]) -> Result<Vec<StoredCopy>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let mut copies = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS) {
            let query = self
                .messages
                .find(among(ids))
                .read_concern(ReadConcern::majority())
                .batch_size(batch(ids.len()))
                .max_time(server_limit(self.read_timeout));
            within(deadline, async {
                let mut cursor = query.await?;
                while let Some(document) = cursor.try_next().await? {
                    if let Some(id) = document.get_str("_id").ok().and_then(MessageId::parse) {
                        copies.push(StoredCopy { id, document });
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(copies)
    }

    /// Asks the primary.
    pub async fn server(&self) -> Result<ServerReport, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let hello = within(deadline, self.db.run_command(doc! { "hello": 1 })).await?;
        Ok(ServerReport {
            set: hello.get_str("setName").ok().map(str::to_owned),
            members: hello.get_array("hosts").map_or(0, Vec::len),
            router: hello.get_str("msg") == Ok("isdbgrid"),
            clock: hello.get_datetime("localTime").ok().map(|time| time.timestamp_millis()),
        })
    }

    /// The indexes of `messages`; none if the collection is missing.
    pub async fn indexes(&self) -> Result<IndexReport, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let answer = within(deadline, self.db.run_command(doc! { "listIndexes": "messages" })).await;
        let answer = match answer {
            // NamespaceNotFound.
            Err(StoreError::Rejected { code: Some(26), .. }) => return Ok(IndexReport::default()),
            answer => answer?,
        };
        let listed = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        let mut report = IndexReport::default();
        for index in listed.map(Vec::as_slice).unwrap_or_default().iter().filter_map(Bson::as_document) {
            let Ok(key) = index.get_document("key") else { continue };
            // Over part of the documents, pages would miss the rest.
            let whole = !index.contains_key("partialFilterExpression") && !index.contains_key("sparse");
            report.primary_key |= is_key(key, &[("_id", 1)]);
            report.pages |= whole && is_key(key, &[("chatId", 1), ("timestamp", -1), ("_id", -1)]);
        }
        Ok(report)
    }

    /// Writes a document to a collection of its own, as durably as messages are written, and takes it away again.
    pub async fn try_majority_write(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let limit = i64::try_from(server_limit(self.write_timeout).as_millis()).unwrap_or(i64::MAX);
        let concern = doc! { "w": "majority", "j": true, "wtimeout": limit };
        let write = doc! {
            "update": PROBES,
            "updates": [{ "q": { "_id": "doctor" }, "u": { "$currentDate": { "at": true } }, "upsert": true }],
            "writeConcern": &concern,
        };
        accepted(&within(deadline, self.db.run_command(write)).await?)?;
        let remove =
            doc! { "delete": PROBES, "deletes": [{ "q": { "_id": "doctor" }, "limit": 1 }], "writeConcern": concern };
        accepted(&within(deadline, self.db.run_command(remove)).await?)
    }
}

/// `ok: 1` says nothing of these.
fn accepted(reply: &Document) -> Result<(), StoreError> {
    let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
    let error = errors.first().or_else(|| reply.get("writeConcernError")).and_then(Bson::as_document);
    match error {
        Some(error) => {
            let code = number(error, "code").and_then(|code| i32::try_from(code).ok());
            let reason = error.get_str("errmsg").unwrap_or_default().to_owned();
            Err(StoreError::Rejected { code, reason })
        }
        None => Ok(()),
    }
}

fn value<'a>(document: &'a RawDocument, field: &str) -> Option<RawBsonRef<'a>> {
    document.get(field).ok().flatten()
}

fn is_key(key: &Document, fields: &[(&str, i64)]) -> bool {
    key.len() == fields.len()
        && key.keys().zip(fields).all(|(name, (field, order))| name == field && number(key, name) == Some(*order))
}
