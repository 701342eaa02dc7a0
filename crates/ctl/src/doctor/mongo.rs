//! MongoDB: a replica set that takes majority writes, and the indexes of `messages`.

use std::time::Duration;

use holdfast_service::clock::unix_ms;
use holdfast_store::{IndexReport, ServerReport, Store, StoreError, UnreadableDocument};

use super::{clock, unreachable};
use crate::BUDGET;
use crate::check::{Check, Status};

/// Unreadable documents that are named.
const SHOWN: usize = 10;
/// How long the search for them may take.
const LOOK_THROUGH: Duration = Duration::from_secs(10);

/// Checks the replica set, the indexes, unreadable documents and the clock.
pub async fn check(store: &Store) -> Vec<Check> {
    // Connected first, so that it is not part of what the clock's reading takes.
    if let Err(error) = store.ping(BUDGET).await {
        return vec![unreachable("mongodb", error, "start MongoDB or its primary, or correct MONGO_URL")];
    }
    let before = unix_ms();
    let server = store.server().await;
    let after = unix_ms();
    let mut checks = Vec::new();
    match &server {
        Ok(server) => checks.extend([judge_set(server), clock("mongodb", before, server.clock, after)]),
        Err(error) => checks.push(asked_in_vain("mongodb: replica set", error)),
    }
    checks.push(match store.try_majority_write().await {
        Ok(()) => Check::ok("mongodb: majority write", "acknowledged", "acknowledged"),
        Err(error) => Check::ok("mongodb: majority write", error.to_string(), "acknowledged")
            .with(Status::Wrong, "a majority of the members must be up, and the user must have readWrite"),
    });
    match store.indexes().await {
        Ok(indexes) => checks.extend(judge_indexes(indexes)),
        Err(error) => checks.push(asked_in_vain("mongodb: indexes of messages", &error)),
    }
    checks.push(judge_documents(store.find_unreadable(SHOWN, LOOK_THROUGH).await));
    checks
}

/// What other tools wrote, or a restore changed.
fn judge_documents(found: Result<Vec<UnreadableDocument>, StoreError>) -> Check {
    let check = |found: String| Check::ok("mongodb: messages that can be read", found, "all");
    match found {
        Ok(documents) if documents.is_empty() => check("all".into()),
        Ok(documents) => {
            let more = if documents.len() < SHOWN { "" } else { " and perhaps more" };
            let named: Vec<_> = documents.iter().map(ToString::to_string).collect();
            check(format!("not {}{more}", named.join(", "))).with(
                Status::Wrong,
                "correct the named field of each (timestamp: milliseconds as int64, double or Date) or remove the document: history leaves it out; holdfastctl verify names all",
            )
        }
        Err(StoreError::Unavailable(_)) => check(format!("not looked through within {} s", LOOK_THROUGH.as_secs()))
            .with(Status::Unknown, "run holdfastctl verify, which looks through all however long it takes"),
        Err(error) => asked_in_vain("mongodb: messages that can be read", &error),
    }
}

fn asked_in_vain(name: &str, error: &StoreError) -> Check {
    let status = if matches!(error, StoreError::Unavailable(_)) { Status::Unreachable } else { Status::Unknown };
    Check::ok(name, error.to_string(), "an answer").with(status, "see the error")
}

fn judge_set(server: &ServerReport) -> Check {
    let found = match (&server.set, server.router) {
        (_, true) => "a sharded cluster".into(),
        (Some(set), _) => format!("{set}, {} members", server.members),
        (None, _) => "a standalone server".into(),
    };
    Check::ok("mongodb: replica set", found, "a set of three")
        .unless(
            server.router || server.members >= 3,
            Status::Warning,
            "add members: a set of fewer than three does not survive the loss of one",
        )
        .unless(
            server.router || server.set.is_some(),
            Status::Wrong,
            "start mongod with --replSet and initiate the set: a standalone server has no majority to wait for",
        )
}

fn judge_indexes(indexes: IndexReport) -> [Check; 2] {
    let found = |there| if there { "there" } else { "missing" };
    [
        Check::ok("mongodb: messages by _id, unique", found(indexes.primary_key), "there").unless(
            indexes.primary_key,
            Status::Wrong,
            "without it messages may be stored twice; a missing collection is made by the first gateway that starts",
        ),
        Check::ok("mongodb: messages by chatId, timestamp, _id", found(indexes.pages), "there").unless(
            indexes.pages,
            Status::Wrong,
            "start a gateway, which makes it: every page of history reads the whole collection now",
        ),
    ]
}
